// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vmm/base/status.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm::x86_64 {

// Bounds on what a kernel file may ask of the loader.
inline constexpr uint32_t kMaxProgramHeaders = 64;
inline constexpr uint64_t kMaxNoteBytes = 64 * 1024;

struct LoadedKernel {
  uint32_t entry = 0;  // The 32-bit entry point that the PVH note names.
  uint64_t end = 0;    // The first address behind the highest segment.
};

// Loads an ELF64 vmlinux with a PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY) into fresh, zeroed guest
// memory. Trusts nothing in the file. Whole pages of it are mapped privately into the guest's
// memory, so the file must not change while the machine lives; the rest is read to where it goes.
// INVALID_ARGUMENT says what is wrong with the file: no regular file, no ELF, truncated, segments
// outside memory or over each other, no PVH note, an entry point outside the segments.
absl::StatusOr<LoadedKernel> LoadKernel(int fd, const GuestMemory& memory);

struct LoadedInitrd {
  uint64_t address = 0;
  uint64_t size_bytes = 0;
};

// Loads an initial RAM disk as high as possible below the MMIO hole, above `kernel_end`.
absl::StatusOr<LoadedInitrd> LoadInitrd(int fd, const GuestMemory& memory, uint64_t kernel_end);

}  // namespace hearth::vmm::x86_64
