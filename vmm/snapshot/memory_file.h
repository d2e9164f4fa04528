// SPDX-License-Identifier: Apache-2.0
// Guest RAM as a file: the machine's ranges one behind the other, zero pages as holes.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/base/status.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

inline constexpr uint64_t kGuestPageBytes = 4096;

struct MemoryFileSize {
  uint64_t bytes = 0;       // With the holes.
  uint64_t data_pages = 0;  // Pages that are not zero.
};

// Writes all of `memory` into an empty file. Nobody may be writing to the memory meanwhile.
absl::StatusOr<MemoryFileSize> WriteMemoryFile(const GuestMemory& memory, int fd);

// Maps a memory file privately into `ranges`. FAILED_PRECONDITION unless it is a memfd of exactly
// that size that nobody can write to or shrink any more (F_SEAL_WRITE, F_SEAL_SHRINK): what others
// wrote would appear in the guest, and what they cut off would end us with SIGBUS.
absl::StatusOr<GuestMemory> MapMemoryFile(int fd, std::span<const GuestMemory::Range> ranges);

}  // namespace hearth::vmm
