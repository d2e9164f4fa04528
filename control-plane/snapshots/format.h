// SPDX-License-Identifier: Apache-2.0
// The files of a snapshot, from and to bytes. Whatever is parsed is taken for hostile: bounded
// first, then parsed, then judged whole. DATA_LOSS with what is wrong, unless said otherwise.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "control-plane/backend/working_set.h"
#include "hearth/snapshot/v1/snapshot.pb.h"

namespace hearth::control {

// [A-Za-z0-9_-]{1,64}: safe as a folder's name.
bool IsTenantId(absl::string_view text);

// FAILED_PRECONDITION for a format version newer than ours, which is judged before all else.
absl::StatusOr<hearth::snapshot::v1::Header> ParseHeader(absl::string_view bytes);

// The manifest of a memory of `memory_mib` MiB.
absl::StatusOr<hearth::snapshot::v1::Memory> ParseMemory(absl::string_view bytes,
                                                         uint32_t memory_mib);

bool IsZero(absl::string_view bytes);

// A chunk of memory as it is stored: a little-endian u16 whose bit n tells that page n is not zero,
// and those pages in order. Most chunks hold zero pages, which so cost neither disk nor digest.
std::string EncodeChunk(absl::string_view chunk);
struct StoredChunk {
  uint16_t pages = 0;      // Bit n: page n is in `data`.
  absl::string_view data;  // A view of what was parsed.
};
absl::StatusOr<StoredChunk> ParseChunk(absl::string_view bytes);

struct RecordedWorkingSet {
  WorkingSet runs;
  uint32_t recordings = 0;
};
absl::StatusOr<RecordedWorkingSet> ParseWorkingSet(absl::string_view bytes, uint32_t memory_mib);
std::string EncodeWorkingSet(const RecordedWorkingSet& working_set);

// How many pages of the guest a memory of that size has.
uint64_t PagesOf(uint32_t memory_mib);

}  // namespace hearth::control
