// SPDX-License-Identifier: Apache-2.0
// Spawns one jailed process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::launcher {

struct SpawnSpec {
  int executable = -1;      // An open static program.
  int control = -1;         // Becomes descriptor 3.
  int kvm = -1;             // Becomes descriptor 4.
  int null = -1;            // Becomes descriptors 0 and 1.
  int error = -1;           // Becomes descriptor 2.
  int cgroup = -1;          // A cgroup v2 folder to be born in; -1: none.
  uint32_t uid = 0;         // And gid; no other groups.
  uint64_t memory_mib = 0;  // Of the guest, for the limits; 0: not known yet.
};

struct Spawned {
  pid_t pid = -1;
  UniqueFd pidfd;
};

// Returns when the program has been executed. The process has an empty environment, descriptors 0
// to 4 only, no privileges and no way to gain some, its own mount, PID, network, IPC and UTS
// namespaces (the mount tree is a copy of the caller's, so the caller's root is to be empty), and
// dies with the caller's thread. The caller is a single-threaded root process.
absl::StatusOr<Spawned> SpawnJailed(const SpawnSpec& spec);

// For a child that was spawned without knowing its guest: what SpawnJailed() would have set. `pid`
// is a child that was not reaped, `uid` the one it runs under.
absl::Status LimitMemory(pid_t pid, uint32_t uid, uint64_t memory_mib);

}  // namespace hearth::launcher
