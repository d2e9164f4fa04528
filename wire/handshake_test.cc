// SPDX-License-Identifier: Apache-2.0
#include "wire/handshake.h"

#include <catch2/catch.hpp>

namespace hearth::wire {
namespace {

absl::StatusOr<uint32_t> Negotiate(VersionRange ours, VersionRange theirs) {
  return NegotiateVersion("hearth.test.v1", "the peer", ours, theirs);
}

TEST_CASE("handshake: the highest version in both ranges is spoken") {
  REQUIRE(*Negotiate({1, 1}, {1, 1}) == 1);
  REQUIRE(*Negotiate({1, 3}, {2, 5}) == 3);
  REQUIRE(*Negotiate({2, 5}, {1, 3}) == 3);
  REQUIRE(*Negotiate({1, 9}, {4, 4}) == 4);
}

TEST_CASE("handshake: ranges without a common version fail and say which side is too old") {
  const absl::Status peer_old = Negotiate({3, 4}, {1, 2}).status();
  REQUIRE(peer_old.code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(peer_old.message() ==
          "no version of hearth.test.v1 in common: the peer speaks 1 to 2, this side 3 to 4; the "
          "peer is too old");
  const absl::Status we_are_old = Negotiate({1, 2}, {3, 4}).status();
  REQUIRE(absl::string_view(we_are_old.message()).find("this side is too old") !=
          absl::string_view::npos);
}

TEST_CASE("handshake: a range that is none is refused") {
  REQUIRE(Negotiate({1, 2}, {0, 1}).status().code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(Negotiate({1, 2}, {2, 1}).status().code() == absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hearth::wire
