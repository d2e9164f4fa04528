// SPDX-License-Identifier: Apache-2.0
// `hearth-bench restore`: a Linux guest that writes to its console all the time is saved once, then
// restored again and again; next to QEMU's microvm restoring a migration file of the same guest.
#pragma once

#include <functional>
#include <string>

#include "bench/boot.h"

namespace hearth::bench {

// What issue 3 asks of hearth-vmm, in million instructions.
inline constexpr double kMaxFreshRestore = 12;
inline constexpr double kAimFreshRestore = 8;
inline constexpr double kMaxWaitingRestore = 5;
inline constexpr double kAimWaitingRestore = 3;

struct RestoreOptions {
  BootOptions machine;
  std::string kernel;  // A Linux, and an initramfs whose init writes to the console without end.
  std::string initrd;
};

// Machines "fresh": from posix_spawn of hearth-vmm to the first byte that the restored guest
// writes; "waiting": from the request, to a process that was spawned before; "qemu-restored": from
// posix_spawn of QEMU. Memory files are resident, and the working set is that of a restore before.
absl::StatusOr<BootResults> RunRestore(const RestoreOptions& options,
                                       const std::function<void(const std::string&)>& progress);

}  // namespace hearth::bench
