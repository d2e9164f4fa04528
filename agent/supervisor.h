// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/process.h"

namespace hearth::agent {

// At most this many processes (programs that the host started, not their children) are remembered,
// running or ended; the oldest ended one is forgotten first.
inline constexpr size_t kMaxProcesses = 64;

// Starts user programs, each in a cgroup below one parent, and reaps every child of the agent.
class Supervisor {
 public:
  // `cgroup` holds all user code; its controllers are delegated already. It and `loop` outlive
  // this.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(EventLoop* loop, Cgroup* cgroup);
  ~Supervisor();

  // `request.cgroup_fd` is filled in here. A timeout of 0 is none. RESOURCE_EXHAUSTED when
  // kMaxProcesses run. The process lives until the supervisor forgets it, never inside a callback.
  absl::StatusOr<Process*> Start(SpawnRequest request, int64_t timeout_ns,
                                 Process::Callbacks callbacks);

  Process* Find(uint64_t id);  // Null when unknown or forgotten.

  // Kills everything; `empty` is called when nothing is left, perhaps at once.
  void KillAll(std::function<void()> empty);
  size_t running() const;

 private:
  Supervisor(EventLoop* loop, Cgroup* cgroup, UniqueFd signals)
      : loop_(loop), cgroup_(cgroup), signals_(std::move(signals)) {}
  void ReapChildren();
  void ForgetOldest();
  void TellWhenEmpty();

  EventLoop* const loop_;
  Cgroup* const cgroup_;
  UniqueFd signals_;
  uint64_t last_id_ = 0;
  std::map<uint64_t, std::unique_ptr<Process>> processes_;
  std::function<void()> when_empty_;
};

}  // namespace hearth::agent
