// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/format.h"

#include <catch2/catch.hpp>

#include "absl/strings/escaping.h"
#include "control-plane/snapshots/keys.h"
#include "control-plane/snapshots/limits.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

pb::Header GoodHeader() {
  pb::Header header;
  header.set_format_version(1);
  header.set_uid("018f0000-0000-7000-8000-000000000000");
  header.set_tenant("t");
  header.set_memory_mib(128);
  header.set_state_digest(std::string(32, 's'));
  header.set_memory_digest(std::string(32, 'm'));
  header.set_state_bytes(1);
  return header;
}

absl::Status Judge(const std::function<void(pb::Header*)>& change) {
  pb::Header header = GoodHeader();
  change(&header);
  return ParseHeader(header.SerializeAsString()).status();
}

}  // namespace

TEST_CASE("format: a header's limits, each at its edge") {
  CHECK(ParseHeader(GoodHeader().SerializeAsString()).ok());
  const auto good = [](const auto& change) { CHECK(Judge(change).ok()); };
  const auto bad = [](const auto& change) { CHECK(absl::IsDataLoss(Judge(change))); };
  bad([](pb::Header* header) { header->set_format_version(0); });
  CHECK(
      absl::IsFailedPrecondition(Judge([](pb::Header* header) { header->set_format_version(2); })));
  good([](pb::Header* header) { header->set_memory_mib(limits::kMaxSnapshotMemoryMib); });
  bad([](pb::Header* header) { header->set_memory_mib(limits::kMaxSnapshotMemoryMib + 1); });
  bad([](pb::Header* header) { header->set_memory_mib(0); });
  good([](pb::Header* header) { header->set_state_bytes(wire::kMaxSavedStateBytes); });
  bad([](pb::Header* header) { header->set_state_bytes(wire::kMaxSavedStateBytes + 1); });
  bad([](pb::Header* header) { header->set_state_bytes(0); });
  bad([](pb::Header* header) { header->set_state_digest(std::string(31, 's')); });
  bad([](pb::Header* header) { header->set_memory_digest(std::string(33, 'm')); });
  good([](pb::Header* header) { header->set_tenant(std::string(64, 'T')); });
  bad([](pb::Header* header) { header->set_tenant(std::string(65, 'T')); });
  for (const char* tenant : {"", ".", "..", "a/b", "a b"}) {
    bad([&](pb::Header* header) { header->set_tenant(tenant); });
  }
  for (const char* uid :
       {"", "..", "018F0000-0000-7000-8000-000000000000", "018f0000-0000-7000-8000-00000000000",
        "../../../../../../../etc/passwd/1234"}) {
    bad([&](pb::Header* header) { header->set_uid(uid); });
  }
  CHECK(absl::IsDataLoss(ParseHeader("\xff\xff").status()));
  CHECK(absl::IsDataLoss(ParseHeader(std::string(65537, '\0')).status()));
}

TEST_CASE("format: unknown fields of a header are passed over") {
  std::string bytes = GoodHeader().SerializeAsString();
  bytes += std::string("\xa2\x3f\x01x", 4);  // Field 1012, a string.
  CHECK(ParseHeader(bytes).ok());
}

TEST_CASE("format: a memory manifest has the header's size and a digest for each chunk") {
  pb::Memory memory;
  memory.set_bytes(1 << 20);
  memory.set_chunk_bytes(limits::kSnapshotChunkBytes);
  memory.set_chunks(std::string(16 * 32, '\0'));
  CHECK(ParseMemory(memory.SerializeAsString(), 1).ok());
  CHECK(absl::IsDataLoss(ParseMemory(memory.SerializeAsString(), 2).status()));
  memory.set_chunks(std::string(16 * 32 - 1, '\0'));
  CHECK(absl::IsDataLoss(ParseMemory(memory.SerializeAsString(), 1).status()));
  memory.set_chunks(std::string(17 * 32, '\0'));
  CHECK(absl::IsDataLoss(ParseMemory(memory.SerializeAsString(), 1).status()));
  memory.set_chunks(std::string(256 * 32, '\0'));
  memory.set_chunk_bytes(4096);
  CHECK(absl::IsDataLoss(ParseMemory(memory.SerializeAsString(), 1).status()));
  CHECK(absl::IsDataLoss(ParseMemory("\x01", 1).status()));
}

TEST_CASE("format: the largest manifest and working set are within their limits") {
  pb::Memory memory;
  memory.set_bytes(uint64_t{limits::kMaxSnapshotMemoryMib} << 20);
  memory.set_chunk_bytes(limits::kSnapshotChunkBytes);
  memory.set_chunks(std::string(memory.bytes() / limits::kSnapshotChunkBytes * 32, '\0'));
  CHECK(ParseMemory(memory.SerializeAsString(), limits::kMaxSnapshotMemoryMib).ok());

  RecordedWorkingSet working_set;
  const auto pages = static_cast<uint32_t>(PagesOf(limits::kMaxSnapshotMemoryMib));
  for (uint32_t i = wire::kMaxPageRuns; i > 0; --i) {
    working_set.runs.push_back({pages - 2 * i, 1, true});
  }
  working_set.recordings = UINT32_MAX;
  const std::string bytes = EncodeWorkingSet(working_set);
  CHECK(bytes.size() + limits::kSnapshotDigestBytes <= limits::kMaxWorkingSetFileBytes);
  const auto parsed = ParseWorkingSet(bytes, limits::kMaxSnapshotMemoryMib);
  REQUIRE(parsed.ok());
  CHECK(parsed->runs == working_set.runs);
  CHECK(parsed->recordings == UINT32_MAX);
  CHECK(absl::IsDataLoss(ParseWorkingSet(bytes, 1).status()));
  working_set.runs.insert(working_set.runs.begin(), {0, 1, true});
  CHECK(absl::IsDataLoss(
      ParseWorkingSet(EncodeWorkingSet(working_set), limits::kMaxSnapshotMemoryMib).status()));
}

TEST_CASE("format: a stored chunk has the pages that are not zero, and no other length") {
  std::string chunk(limits::kSnapshotChunkBytes, '\0');
  CHECK(EncodeChunk(chunk) == std::string(2, '\0'));
  chunk[0] = 'a';
  chunk[limits::kSnapshotChunkBytes - 1] = 'z';
  const std::string stored = EncodeChunk(chunk);
  CHECK(stored.substr(0, 2) == "\x01\x80");
  CHECK(stored.size() == 2 + 2 * wire::kGuestPageBytes);
  const auto parsed = ParseChunk(stored);
  REQUIRE(parsed.ok());
  CHECK(parsed->pages == 0x8001);
  CHECK(parsed->data.front() == 'a');
  CHECK(parsed->data.back() == 'z');
  CHECK(EncodeChunk(std::string(limits::kSnapshotChunkBytes, 'x')).size() ==
        limits::kMaxStoredChunkBytes);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{2}, stored.size() - 1}) {
    CHECK(absl::IsDataLoss(ParseChunk(stored.substr(0, size)).status()));
  }
  CHECK(absl::IsDataLoss(ParseChunk(stored + "x").status()));
}

TEST_CASE("format: keyed digests and derived keys are what RFC 7693 and RFC 5869 say") {
  // From Python's hashlib and hmac: blake2b(digest_size=32, key=bytes(range(32))) of "abc".
  SnapshotKey key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(i);
  KeyedDigest keyed(key);
  const std::string whole = absl::BytesToHexString(Raw(keyed.Of("abc")));
  CHECK(whole == "d63a32d3e44738d7907f964316c241adaba0abfeabc32349677578a15a203f7f");
  CHECK(absl::BytesToHexString(Raw(keyed.Of("a", "bc"))) == whole);
  CHECK(absl::BytesToHexString(Raw(KeyedDigest(DeriveTenantKeys(key, "t1").content).Of("abc"))) ==
        "a9e78ef7008f7c3f6c8f9cf5d4a25d82045976ee7312524f264416c68693fcb3");
  const TenantKeys keys = DeriveTenantKeys(key, "t1");
  CHECK(keys.content != keys.header);
  CHECK(keys.header != keys.working_set);
  CHECK(keys.content != DeriveTenantKeys(key, "t2").content);
}

}  // namespace hearth::control
