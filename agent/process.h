// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "agent/accounting.h"
#include "agent/cgroup.h"
#include "agent/event_loop.h"
#include "agent/spawn.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

// The table is in docs/agent-states.md.
enum class ProcessState {
  kStarting,  // Cloned; the program is not executed yet.
  kRunning,
  kEmptying,  // The shim has ended; the cgroup is not known to be empty yet.
  kEnded,
};
enum class ProcessEvent { kExecuted, kShimEnded, kGroupEmpty };

// The state after `event`; nothing when the event is illegal in `state`.
std::optional<ProcessState> NextState(ProcessState state, ProcessEvent event);

// Why the agent killed a process.
enum class KillReason { kNone, kTimedOut, kRequested };

// How the start of a program failed, in words for its owner.
struct StartFailure {
  SandboxStep step = SandboxStep::kNone;
  int error = 0;
  std::string message;  // "cannot execute /x: No such file or directory"
};

// One program of the user with its shim and its cgroup. Made by Supervisor. The callbacks come from
// the event loop: started once, or failed; ended always, and last.
class Process {
 public:
  struct Callbacks {
    std::function<void()> started;
    std::function<void(const StartFailure&)> failed;
    std::function<void(const agent::v1::ProcessExit&)> ended;
  };

  uint64_t id() const { return id_; }
  ProcessState state() const { return state_; }
  bool started() const { return started_; }
  bool killed() const { return kill_reason_ != KillReason::kNone; }
  const Cgroup& cgroup() const { return cgroup_; }
  // Valid in kEnded; its reason is UNSPECIFIED when the program never started.
  const agent::v1::ProcessExit& exit() const { return exit_; }
  const StartFailure& start_failure() const { return failure_; }

  // What was used until now, or in all when it has ended.
  agent::v1::ProcessUsage Usage() const;

  // The totals of all it and its children did; valid when it has ended.
  const UsageSnapshot& end_snapshot() const { return end_; }

  // To the program alone. FAILED_PRECONDITION when it does not run.
  absl::Status Signal(int signal);
  // To everything in the cgroup. `ended` follows. No-op when it has ended.
  void Kill(KillReason reason);

 private:
  friend class Supervisor;
  Process(EventLoop* loop, uint64_t id, Cgroup cgroup, Callbacks callbacks)
      : loop_(loop), id_(id), cgroup_(std::move(cgroup)), callbacks_(std::move(callbacks)) {}

  absl::Status Begin(const SpawnRequest& request, int64_t timeout_ns);
  bool Advance(ProcessEvent event);
  void DrainStatus();
  void HandleMessage(const ShimMessage& message);
  void ShimEnded();  // The shim is a zombie now; the supervisor reaps it after this.
  void FinishWhenEmpty();
  void Finish();

  EventLoop* const loop_;
  const uint64_t id_;
  Cgroup cgroup_;
  Callbacks callbacks_;
  ProcessState state_ = ProcessState::kStarting;
  KillReason kill_reason_ = KillReason::kNone;
  std::string program_;
  pid_t shim_pid_ = 0;
  UniqueFd status_socket_;
  UniqueFd program_pidfd_;
  EventLoop::TimerId timer_ = 0;
  bool started_ = false;
  bool failed_ = false;
  bool exited_ = false;
  int wait_status_ = 0;
  StartFailure failure_;
  UsageSnapshot begin_;
  UsageSnapshot end_;
  agent::v1::ProcessExit exit_;
};

}  // namespace hearth::agent
