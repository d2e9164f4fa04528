// SPDX-License-Identifier: Apache-2.0
#include "agent/identity.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>

#include "agent/snapshot.h"

namespace hearth::agent {
namespace {

TEST_CASE("identity: a machine id is the digits of the instance's UUID") {
  REQUIRE(MachineIdOf("0192F4A0-0000-7abc-8def-0123456789AB") ==
          "0192f4a000007abc8def0123456789ab");
  for (const char* none :
       {"", "instance", "0192f4a0-0000-7abc-8def-0123456789a",
        "0192f4a0-0000-7abc-8def-0123456789abc", "0192f4a000000-7abc-8def-0123456789ab",
        "0192f4a0-0000-7abc-8def-0123456789ag"}) {
    REQUIRE(MachineIdOf(none).empty());
  }
}

TEST_CASE("identity: random UUIDs are of version 4, and differ") {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = *RandomUuid();
    REQUIRE(MachineIdOf(uuid).size() == 32);
    REQUIRE(uuid[14] == '4');
    REQUIRE(std::string("89ab").find(uuid[19]) != std::string::npos);
    seen.insert(uuid);
  }
  REQUIRE(seen.size() == 100);
}

TEST_CASE("restore: what it may hold is checked at the edges") {
  agent::v1::RestoreInstance restore;
  const auto with_entropy = [&](size_t bytes) {
    restore.set_entropy(std::string(bytes, 'e'));
    return CheckRestore(restore).code();
  };
  REQUIRE(with_entropy(0) == absl::StatusCode::kInvalidArgument);
  REQUIRE(with_entropy(63) == absl::StatusCode::kInvalidArgument);
  REQUIRE(with_entropy(64) == absl::StatusCode::kOk);
  REQUIRE(with_entropy(512) == absl::StatusCode::kOk);
  REQUIRE(with_entropy(513) == absl::StatusCode::kInvalidArgument);
  restore.set_entropy(std::string(64, 'e'));
  restore.set_hostname(std::string(64, 'h'));
  REQUIRE(CheckRestore(restore).ok());
  restore.set_hostname(std::string(65, 'h'));
  REQUIRE_FALSE(CheckRestore(restore).ok());
  restore.set_hostname("h");
  (*restore.mutable_environment())["NAME"] = "a=b\nc";
  REQUIRE(CheckRestore(restore).ok());
  for (const std::string& name : {std::string(), std::string("A=B"), std::string("A\0B", 3)}) {
    agent::v1::RestoreInstance bad = restore;
    (*bad.mutable_environment())[name] = "x";
    REQUIRE_FALSE(CheckRestore(bad).ok());
  }
  (*restore.mutable_environment())["NAME"] = std::string("a\0b", 3);
  REQUIRE_FALSE(CheckRestore(restore).ok());
}

}  // namespace
}  // namespace hearth::agent
