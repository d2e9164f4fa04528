// SPDX-License-Identifier: Apache-2.0
// What a VMM's process takes beside its guest's RAM.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <istream>

#include "vmm/base/status.h"

namespace hearth::bench {

struct ProcessMemory {
  int64_t private_bytes = 0;  // Pages that only this process has, clean and dirty.
  int64_t dirty_bytes = 0;    // Those of them that were written to.
  int64_t pss_bytes = 0;      // Shared pages divided by their users.
  int64_t guest_bytes = 0;    // Resident guest RAM, in none of the others.
};

// Sums up a /proc/PID/smaps. The guest's RAM is a mapping of at least `guest_ram_bytes`, or
// adjoining ones of exactly that size together; NOT_FOUND when there is neither.
absl::StatusOr<ProcessMemory> ParseSmaps(std::istream& smaps, int64_t guest_ram_bytes);
absl::StatusOr<ProcessMemory> ReadProcessMemory(pid_t pid, int64_t guest_ram_bytes);

}  // namespace hearth::bench
