// SPDX-License-Identifier: Apache-2.0
// Guest RAM as a file: the machine's ranges one behind the other, zero pages as holes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

inline constexpr uint64_t kGuestPageBytes = 4096;

// Pages of a memory file.
struct PageRange {
  uint64_t first_page = 0;
  uint64_t page_count = 0;

  bool operator==(const PageRange&) const = default;
};

struct MemoryFileSize {
  uint64_t bytes = 0;            // With the holes.
  uint64_t data_pages = 0;       // Pages that are not zero.
  std::vector<PageRange> holes;  // The large ones, at most kMaxHoles, ascending.
};

// Writes all of `memory` into an empty file. Nobody may be writing to the memory meanwhile.
absl::StatusOr<MemoryFileSize> WriteMemoryFile(const GuestMemory& memory, int fd);

// Maps a memory file privately into `ranges`. FAILED_PRECONDITION unless it is a memfd of exactly
// that size that nobody can write to or shrink any more (F_SEAL_WRITE, F_SEAL_SHRINK): what others
// wrote would appear in the guest, and what they cut off would end us with SIGBUS.
// `holes` are ascending and inside the file; they are anonymous memory, whatever the file has
// there. Mappings begin at multiples of 2 MiB, so that the host can map large pages there.
absl::StatusOr<GuestMemory> MapMemoryFile(int fd, std::span<const GuestMemory::Range> ranges,
                                          std::span<const PageRange> holes);

// The large holes, at most kMaxHoles, ascending. It looks at every page: what WriteMemoryFile()
// told is to be had for nothing.
absl::StatusOr<std::vector<PageRange>> FindHoles(int fd);

}  // namespace hearth::vmm
