// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/block_bytes.h"

#include <catch2/catch.hpp>
#include <string>

#include "control-plane/backend/libvirt/limits.h"

namespace hearth::libvirt {
namespace {

// As QEMU 7.2 answers, the members that nobody reads left out but for one.
std::string Device(const std::string& stats) {
  return R"({"device": "", "parent": {"stats": {"rd_bytes": 7}}, "stats": )" + stats + "}";
}

TEST_CASE("block bytes: the figures of all disks are added up") {
  const auto bytes = ParseBlockBytes(
      R"({"return": [)" + Device(R"({"rd_bytes": 4096, "wr_bytes": 0, "rd_operations": 1})") + "," +
      Device(R"({"rd_bytes": 512, "wr_bytes": 1024})") + R"(], "id": "libvirt-12"})");
  REQUIRE(bytes.ok());
  CHECK(bytes->read == 4608);
  CHECK(bytes->written == 1024);
}

TEST_CASE("block bytes: a machine without disks has moved none") {
  const auto bytes = ParseBlockBytes(R"({"return": []})");
  REQUIRE(bytes.ok());
  CHECK(bytes->read == 0);
  CHECK(bytes->written == 0);
}

TEST_CASE("block bytes: what QEMU does not answer is an error") {
  const std::string answer =
      GENERATE(as<std::string>(), "", "[]", "{", R"({"error": {"class": "GenericError"}})",
               R"({"return": {}})", R"({"return": [1]})", R"({"return": [{"stats": 1}]})",
               R"({"return": [{"stats": {"rd_bytes": 1}}]})",
               R"({"return": [{"stats": {"rd_bytes": -1, "wr_bytes": 1}}]})",
               R"({"return": [{"stats": {"rd_bytes": "1", "wr_bytes": 1}}]})",
               R"({"return": [{"stats": {"rd_bytes": 1.5, "wr_bytes": 1}}]})", "\xFF\xFE");
  INFO(answer);
  CHECK(ParseBlockBytes(answer).status().code() == absl::StatusCode::kInternal);
}

TEST_CASE("block bytes: an answer may have its limit, and not one byte more") {
  std::string answer = R"({"return": []})";
  answer.resize(kMaxBlockStatsBytes, ' ');
  CHECK(ParseBlockBytes(answer).ok());
  CHECK_FALSE(ParseBlockBytes(answer + ' ').ok());
}

TEST_CASE("block bytes: an answer nested to the limit neither overflows nor passes") {
  CHECK_FALSE(ParseBlockBytes(std::string(kMaxBlockStatsBytes, '[')).ok());
}

}  // namespace
}  // namespace hearth::libvirt
