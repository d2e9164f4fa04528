// SPDX-License-Identifier: Apache-2.0
// Guest memory between its file and chunks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "control-plane/snapshots/chunks.h"
#include "control-plane/snapshots/keys.h"
#include "hearth/snapshot/v1/snapshot.pb.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// Calls `take` with the index and a copy of each chunk of a file that holds anything but zeros, in
// order; holes are not read. INVALID_ARGUMENT when the file has another size than `bytes`.
absl::Status ForEachDataChunk(int file, uint64_t bytes,
                              const std::function<absl::Status(uint64_t, absl::string_view)>& take);

// A file's content from its beginning. INVALID_ARGUMENT when it is empty or longer than `limit`.
absl::StatusOr<std::string> ReadWhole(int file, size_t limit);

// The memory of a manifest: every chunk verified, zero pages left as holes, sealed. DATA_LOSS names
// the chunk that is altered, truncated or missing.
absl::StatusOr<UniqueFd> LoadMemory(const ChunkStore& chunks, const std::string& tenant,
                                    const TenantKeys& keys,
                                    const hearth::snapshot::v1::Memory& manifest);

// A sealed memfd with these bytes.
absl::StatusOr<UniqueFd> SealedMemfd(const char* name, absl::string_view bytes);

}  // namespace hearth::control
