// SPDX-License-Identifier: Apache-2.0
// What user code used, from its cgroup and from /proc; how each figure is found and its error:
// docs/metering.md.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "absl/strings/string_view.h"
#include "agent/cgroup.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

struct IoBytes {
  uint64_t read = 0;
  uint64_t written = 0;
};

// Of one process and of the children it has reaped; 0 when it is gone. Works for a zombie that is
// not reaped yet.
IoBytes IoOf(pid_t pid);

// Running totals of a group at one moment.
struct UsageSnapshot {
  int64_t monotonic_ns = 0;
  uint64_t user_cpu_ns = 0;
  uint64_t system_cpu_ns = 0;
  uint64_t memory_peak_bytes = 0;  // memory.peak, over the life of the group.
  uint64_t memory_current_bytes = 0;
  uint64_t resident_bytes = 0;       // Sum of VmRSS.
  uint64_t resident_peak_bytes = 0;  // Sum of VmHWM.
  IoBytes io;  // Each process counts what it reaped, so what has ended is not lost.
};
UsageSnapshot TakeSnapshot(const Cgroup& cgroup);

// Starts a new high-water mark (VmHWM) in every process of the group: proc(5), clear_refs, 5.
void ResetResidentPeaks(const Cgroup& cgroup);

// Usage between two moments. `sampled_peak_bytes` is the highest memory.current that was seen
// between them.
agent::v1::ProcessUsage UsageBetween(const UsageSnapshot& begin, const UsageSnapshot& end,
                                     uint64_t sampled_peak_bytes);

}  // namespace hearth::agent
