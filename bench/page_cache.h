// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace hearth::bench {

// Writes the folder's files to their disk and drops them from the page cache
// (posix_fadvise(POSIX_FADV_DONTNEED)), then looks whether they are gone (mincore): returns the
// bytes that were dropped. FAILED_PRECONDITION when they are not on a disk at all (tmpfs), or stay.
absl::StatusOr<uint64_t> DropFromPageCache(const std::string& folder);

// How many bytes of the file are in the page cache.
absl::StatusOr<uint64_t> CachedBytes(int fd);

}  // namespace hearth::bench
