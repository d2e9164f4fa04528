// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.h"

#include <catch2/catch.hpp>
#include <vector>

namespace hearth::wire {
namespace {

constexpr size_t kLimit = 1000;

std::string Framed(absl::string_view payload) {
  std::string out;
  REQUIRE(AppendFrame(payload, kLimit, &out).ok());
  return out;
}

// Feeds `stream` in pieces of `piece` bytes and collects the payloads.
std::vector<std::string> DecodeInPieces(absl::string_view stream, size_t piece) {
  FrameDecoder decoder(kLimit);
  std::vector<std::string> payloads;
  for (size_t at = 0; at < stream.size(); at += piece) {
    absl::string_view input = stream.substr(at, piece);
    while (true) {
      absl::StatusOr<bool> complete = decoder.Next(&input);
      REQUIRE(complete.ok());
      if (!*complete) break;
      payloads.emplace_back(decoder.payload());
    }
    REQUIRE(input.empty());
  }
  REQUIRE(decoder.at_boundary());
  return payloads;
}

TEST_CASE("frame: the length is four bytes, little-endian, before the payload") {
  REQUIRE(Framed(std::string(0x203, 'x')).substr(0, 5) == std::string("\x03\x02\x00\x00x", 5));
}

TEST_CASE("frame: every cutting of the stream gives the same frames") {
  const std::vector<std::string> payloads = {"", "a", std::string(kLimit, 'b'), "", "cd"};
  std::string stream;
  for (const std::string& payload : payloads) stream += Framed(payload);
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    REQUIRE(DecodeInPieces(stream, piece) == payloads);
  }
}

TEST_CASE("frame: a payload over the limit is not sent and leaves the output as it was") {
  std::string out = "before";
  REQUIRE(AppendFrame(std::string(kLimit + 1, 'x'), kLimit, &out).code() ==
          absl::StatusCode::kInvalidArgument);
  REQUIRE(out == "before");
}

TEST_CASE("frame: a length over the limit fails before its payload arrives, and for good") {
  for (absl::string_view header :
       {absl::string_view("\xe9\x03\x00\x00", 4), absl::string_view("\xff\xff\xff\xff", 4)}) {
    FrameDecoder decoder(kLimit);
    REQUIRE(decoder.Next(&header).status().code() == absl::StatusCode::kInvalidArgument);
    const std::string good = Framed("good");
    absl::string_view input = good;
    REQUIRE_FALSE(decoder.Next(&input).ok());
  }
}

TEST_CASE("frame: a stream that ends inside a header or a payload is not at a boundary") {
  const std::string stream = Framed("payload");
  for (size_t size = 1; size < stream.size(); ++size) {
    FrameDecoder decoder(kLimit);
    absl::string_view input = absl::string_view(stream).substr(0, size);
    absl::StatusOr<bool> complete = decoder.Next(&input);
    REQUIRE(complete.ok());
    REQUIRE_FALSE(*complete);
    REQUIRE_FALSE(decoder.at_boundary());
  }
}

}  // namespace
}  // namespace hearth::wire
