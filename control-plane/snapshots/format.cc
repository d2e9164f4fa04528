// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/working_sets.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

constexpr size_t kPagesOfChunk = limits::kSnapshotChunkBytes / wire::kGuestPageBytes;
static_assert(kPagesOfChunk == 16, "a stored chunk tells of its pages in 16 bits");

// RFC 9562's text form; any version.
bool IsUuidText(absl::string_view text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

absl::Status CheckSize(absl::string_view bytes, size_t limit) {
  if (bytes.size() <= limit) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("has ", bytes.size(), " bytes; at most ", limit));
}

}  // namespace

bool IsTenantId(absl::string_view text) {
  return !text.empty() && text.size() <= limits::kMaxTenantIdBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
         });
}

absl::StatusOr<pb::Header> ParseHeader(absl::string_view bytes) {
  RETURN_IF_ERROR(CheckSize(bytes, limits::kMaxSnapshotHeaderBytes));
  pb::Header header;
  if (!header.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("is no snapshot's header");
  }
  if (header.format_version() > limits::kSnapshotFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("has the format version ", header.format_version(),
                     ", of a newer Hearth; this one reads up to ", limits::kSnapshotFormatVersion));
  }
  if (header.format_version() == 0) return absl::DataLossError("has no format version");
  if (!IsUuidText(header.uid())) return absl::DataLossError("has no valid uid");
  if (!IsTenantId(header.tenant())) return absl::DataLossError("has no valid tenant");
  if (header.memory_mib() == 0 || header.memory_mib() > limits::kMaxSnapshotMemoryMib) {
    return absl::DataLossError(absl::StrCat("tells of ", header.memory_mib(),
                                            " MiB of memory; 1 to ", limits::kMaxSnapshotMemoryMib,
                                            " are possible"));
  }
  if (header.state_digest().size() != limits::kSnapshotDigestBytes ||
      header.memory_digest().size() != limits::kSnapshotDigestBytes) {
    return absl::DataLossError("lacks a digest of state or memory");
  }
  if (header.state_bytes() == 0 || header.state_bytes() > wire::kMaxSavedStateBytes) {
    return absl::DataLossError(absl::StrCat("tells of a state of ", header.state_bytes(),
                                            " bytes; 1 to ", wire::kMaxSavedStateBytes,
                                            " are possible"));
  }
  return header;
}

absl::StatusOr<pb::Memory> ParseMemory(absl::string_view bytes, uint32_t memory_mib) {
  RETURN_IF_ERROR(CheckSize(bytes, limits::kMaxMemoryManifestBytes));
  pb::Memory memory;
  if (!memory.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("is no memory manifest");
  }
  if (memory.bytes() != uint64_t{memory_mib} << 20) {
    return absl::DataLossError(absl::StrCat(
        "is of ", memory.bytes(), " bytes of memory; the header tells of ", memory_mib, " MiB"));
  }
  if (memory.chunk_bytes() != limits::kSnapshotChunkBytes) {
    return absl::DataLossError(absl::StrCat("has chunks of ", memory.chunk_bytes(), " bytes, not ",
                                            limits::kSnapshotChunkBytes));
  }
  // A MiB is a whole number of chunks, so no chunk is shorter in format 1.
  const uint64_t chunks = memory.bytes() / limits::kSnapshotChunkBytes;
  if (memory.chunks().size() != chunks * limits::kSnapshotDigestBytes) {
    return absl::DataLossError(absl::StrCat("has ", memory.chunks().size(),
                                            " bytes of digests, not ",
                                            chunks * limits::kSnapshotDigestBytes));
  }
  return memory;
}

bool IsZero(absl::string_view bytes) {
  return bytes.empty() ||
         (bytes[0] == 0 && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

std::string EncodeChunk(absl::string_view chunk) {
  std::string stored(2, '\0');
  stored.reserve(limits::kMaxStoredChunkBytes);
  uint16_t pages = 0;
  for (size_t page = 0; page < kPagesOfChunk; ++page) {
    const absl::string_view bytes =
        chunk.substr(page * wire::kGuestPageBytes, wire::kGuestPageBytes);
    if (IsZero(bytes)) continue;
    pages = static_cast<uint16_t>(pages | 1u << page);
    stored.append(bytes.data(), bytes.size());
  }
  stored[0] = static_cast<char>(pages & 0xff);
  stored[1] = static_cast<char>(pages >> 8);
  return stored;
}

absl::StatusOr<StoredChunk> ParseChunk(absl::string_view bytes) {
  if (bytes.size() < 2) {
    return absl::DataLossError(absl::StrCat("is truncated: it has ", bytes.size(), " bytes"));
  }
  StoredChunk chunk;
  chunk.pages =
      static_cast<uint16_t>(static_cast<uint8_t>(bytes[0]) | static_cast<uint8_t>(bytes[1]) << 8);
  chunk.data = bytes.substr(2);
  const size_t due = static_cast<size_t>(std::popcount(chunk.pages)) * wire::kGuestPageBytes;
  if (chunk.data.size() != due) {
    return absl::DataLossError(absl::StrCat(chunk.data.size() < due ? "is truncated" : "is altered",
                                            ": it has ", bytes.size(), " of ", 2 + due, " bytes"));
  }
  return chunk;
}

absl::StatusOr<RecordedWorkingSet> ParseWorkingSet(absl::string_view bytes, uint32_t memory_mib) {
  RETURN_IF_ERROR(CheckSize(bytes, limits::kMaxWorkingSetFileBytes));
  pb::WorkingSet stored;
  if (!stored.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("is no working set");
  }
  RecordedWorkingSet working_set;
  working_set.recordings = stored.recordings();
  working_set.runs.reserve(std::min<size_t>(stored.runs_size(), wire::kMaxPageRuns));
  if (static_cast<size_t>(stored.runs_size()) > wire::kMaxPageRuns) {
    return absl::DataLossError(
        absl::StrCat("has ", stored.runs_size(), " runs; at most ", wire::kMaxPageRuns));
  }
  for (const pb::WorkingSet::Run& run : stored.runs()) {
    working_set.runs.push_back({run.first_page(), run.page_count(), run.written()});
  }
  const absl::Status good = CheckWorkingSet(working_set.runs, PagesOf(memory_mib));
  if (!good.ok()) return absl::DataLossError(good.message());
  return working_set;
}

std::string EncodeWorkingSet(const RecordedWorkingSet& working_set) {
  pb::WorkingSet stored;
  stored.set_recordings(working_set.recordings);
  for (const PageRun& run : working_set.runs) {
    pb::WorkingSet::Run* to = stored.add_runs();
    to->set_first_page(run.first_page);
    to->set_page_count(run.page_count);
    to->set_written(run.written);
  }
  return stored.SerializeAsString();
}

uint64_t PagesOf(uint32_t memory_mib) {
  return (uint64_t{memory_mib} << 20) / wire::kGuestPageBytes;
}

}  // namespace hearth::control
