// SPDX-License-Identifier: Apache-2.0
// Starting one program of the user: two processes, the shim and the program.
//
// The shim is PID 1 of a pid namespace of its own. It keeps root's identity, so the program can
// neither signal nor trace it; it reaps what the program leaves behind, tells the agent how the
// program ended and ends itself, at which the kernel kills all that is left in the namespace. Both
// live in the process's cgroup from their first instruction (CLONE_INTO_CGROUP).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/sandbox.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

struct SpawnRequest {
  std::vector<std::string>
      arguments;  // Not empty; arguments[0] is looked up in PATH if it has no /.
  std::vector<std::string> environment;  // "NAME=value".
  std::string working_directory;
  std::array<UniqueFd, 3> stdio;  // The program's own ends.
  int cgroup_fd = -1;
  Sandbox sandbox;
};

struct Spawned {
  pid_t shim_pid = 0;      // A child of the caller, who reaps it.
  UniqueFd status_socket;  // Non-blocking; ends when the shim has.
};

absl::StatusOr<Spawned> Spawn(const SpawnRequest& request);

// What the shim tells, in this order: kStarted with the program's pidfd, then kExited; or kFailed
// only. A shim that is killed says nothing more.
struct ShimMessage {
  enum Kind : uint32_t { kNone, kStarted, kFailed, kExited };
  Kind kind = kNone;
  SandboxStep step = SandboxStep::kNone;  // kFailed.
  int32_t value = 0;                      // kFailed: errno. kExited: a wait status.
};

// The next message, kNone when there is none (yet). `program_pidfd` is set by kStarted.
ShimMessage ReceiveShimMessage(int status_socket, UniqueFd* program_pidfd);

}  // namespace hearth::agent
