// SPDX-License-Identifier: Apache-2.0
// hearth-vmm processes as the host sees them: for a benchmark that runs beside hearthd, as root.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hearth::bench {

// Those that have a guest: their cgroups have a limit, those of processes that wait have none.
std::vector<pid_t> VmmsWithGuest();

struct VmmCounts {
  double page_faults = 0;       // Of all threads, minor and major.
  std::optional<double> exits;  // KVM's, where debugfs is mounted.
};
// Nothing when it has ended.
std::optional<VmmCounts> CountsOf(pid_t pid);
// The sum of the fields 10 and 12 of /proc/PID/stat (proc(5)).
std::optional<double> FaultsIn(const std::string& stat);

struct VmmMemory {
  int64_t pss_bytes = 0;
  int64_t private_bytes = 0;
};
// Guest RAM included: of /proc/PID/smaps_rollup.
absl::StatusOr<VmmMemory> MemoryOf(pid_t pid);
// MemAvailable of /proc/meminfo.
absl::StatusOr<int64_t> AvailableBytes();

}  // namespace hearth::bench
