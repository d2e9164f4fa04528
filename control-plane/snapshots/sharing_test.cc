// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/sharing.h"

#include <catch2/catch.hpp>

#include "control-plane/snapshots/host.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

pb::Host HostOf(const std::string& vendor, int model, const std::string& microcode,
                const std::string& flags, const std::string& kernel = "6.1.0-1") {
  return *HostDescription("0.1.0",
                          "vendor_id\t: " + vendor + "\ncpu family\t: 6\nmodel\t\t: " +
                              std::to_string(model) + "\nmodel name\t: Xeon\nstepping\t: 4\n" +
                              "microcode\t: " + microcode + "\nflags\t\t: " + flags + "\n",
                          kernel);
}

const Sharing::Relation& RelationOf(const Sharing& sharing, size_t made_in, size_t here) {
  for (const Sharing::Relation& relation : sharing.relations) {
    if (relation.made_in == made_in && relation.here == here) return relation;
  }
  FAIL("no relation from group " << made_in << " to group " << here);
  return sharing.relations.front();
}

TEST_CASE(
    "sharing: hosts that differ in the kernel and in the features' order only are one group") {
  const Sharing sharing = FindSharing({HostOf("GenuineIntel", 85, "0x1", "sse avx"),
                                       HostOf("GenuineIntel", 85, "0x1", "avx sse", "6.12")});
  CHECK(sharing.groups == std::vector<std::vector<size_t>>{{0, 1}});
  CHECK(sharing.relations.empty());
}

TEST_CASE("sharing: another vendor, model or microcode is another group, and is named") {
  const Sharing sharing = FindSharing(
      {HostOf("AuthenticAMD", 85, "0x1", "sse"), HostOf("GenuineIntel", 85, "0x1", "sse"),
       HostOf("GenuineIntel", 85, "0x2", "sse"), HostOf("GenuineIntel", 85, "0x1", "sse"),
       HostOf("GenuineIntel", 106, "0x1", "sse")});
  // The largest first, then as they were given.
  CHECK(sharing.groups == std::vector<std::vector<size_t>>{{1, 3}, {0}, {2}, {4}});
  CHECK(sharing.relations.size() == 12);
  CHECK(RelationOf(sharing, 0, 1).differences ==
        std::vector<std::string>{"CPU vendor AuthenticAMD here, GenuineIntel in the snapshot"});
  CHECK(RelationOf(sharing, 0, 2).differences ==
        std::vector<std::string>{"microcode 0x2 here, 0x1 in the snapshot"});
  CHECK(RelationOf(sharing, 3, 0).differences ==
        std::vector<std::string>{"CPU model number 85 here, 106 in the snapshot"});
}

TEST_CASE("sharing: a host with more features runs the others' snapshots, not they its own") {
  const Sharing sharing = FindSharing(
      {HostOf("GenuineIntel", 85, "0x1", "sse"), HostOf("GenuineIntel", 85, "0x1", "sse avx512f")});
  CHECK(sharing.groups == std::vector<std::vector<size_t>>{{0}, {1}});
  CHECK(RelationOf(sharing, 0, 1).differences.empty());
  CHECK(RelationOf(sharing, 1, 0).differences ==
        std::vector<std::string>{"CPU features missing here: avx512f"});
}

TEST_CASE("sharing: no host is no group") {
  CHECK(FindSharing({}).groups.empty());
  CHECK(FindSharing({HostOf("x", 1, "", "")}).groups.size() == 1);
}

}  // namespace
}  // namespace hearth::control
