// SPDX-License-Identifier: Apache-2.0
// The files of a snapshot under arbitrary bytes: they are refused, or what is told of them is
// within the limits. The first byte chooses the file, the second the memory's size.
#include <google/protobuf/stubs/logging.h>

#include <bit>
#include <cstdint>
#include <cstdlib>

#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/working_sets.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

void Must(bool good) {
  if (!good) std::abort();
}

void TryHeader(absl::string_view bytes) {
  const auto header = ParseHeader(bytes);
  if (!header.ok()) return;
  Must(header->format_version() == limits::kSnapshotFormatVersion);
  Must(IsTenantId(header->tenant()) && header->uid().size() == 36);
  Must(header->memory_mib() > 0 && header->memory_mib() <= limits::kMaxSnapshotMemoryMib);
}

void TryMemory(absl::string_view bytes, uint32_t memory_mib) {
  const auto memory = ParseMemory(bytes, memory_mib);
  if (!memory.ok()) return;
  Must(memory->chunks().size() * limits::kSnapshotChunkBytes ==
       memory->bytes() * limits::kSnapshotDigestBytes);
}

void TryChunk(absl::string_view bytes) {
  const auto chunk = ParseChunk(bytes);
  if (!chunk.ok()) return;
  Must(bytes.size() <= limits::kMaxStoredChunkBytes);
  Must(chunk->data.size() == std::popcount(chunk->pages) * wire::kGuestPageBytes);
}

void TryWorkingSet(absl::string_view bytes, uint32_t memory_mib) {
  const auto parsed = ParseWorkingSet(bytes, memory_mib);
  if (!parsed.ok()) return;
  const uint64_t pages = PagesOf(memory_mib);
  Must(CheckWorkingSet(parsed->runs, pages).ok());
  const auto again = ParseWorkingSet(EncodeWorkingSet(*parsed), memory_mib);
  Must(again.ok() && again->runs == parsed->runs);
  // Joined with itself in another order of edges, within any limit.
  for (const size_t limit : {size_t{1}, size_t{3}, wire::kMaxPageRuns}) {
    const WorkingSet joined =
        JoinWorkingSets(parsed->runs, {{0, static_cast<uint32_t>(pages), true}}, limit);
    Must(joined.size() == 1 && CheckWorkingSet(joined, pages).ok());
    Must(JoinWorkingSets(parsed->runs, {}, limit).size() <= limit);
  }
}

}  // namespace
}  // namespace hearth::control

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  // Or protobuf tells of each string that is no UTF-8, and the run is spent on that.
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const uint32_t memory_mib = 1 + data[1] % 8;
  switch (data[0] % 4) {
    case 0:
      hearth::control::TryHeader(bytes);
      break;
    case 1:
      hearth::control::TryMemory(bytes, memory_mib);
      break;
    case 2:
      hearth::control::TryChunk(bytes);
      break;
    default:
      hearth::control::TryWorkingSet(bytes, memory_mib);
  }
  return 0;
}
