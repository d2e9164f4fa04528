// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "agent/api_runtime.h"
#include "agent/cgroup.h"
#include "agent/context.h"
#include "agent/machine.h"
#include "agent/park_state.h"
#include "agent/stdio_runtime.h"

namespace hearth::agent {

// Lambda's limit for hooks, when the host names none.
inline constexpr int64_t kDefaultHookTimeoutMs = 10'000;

// PrepareSnapshot and RestoreInstance: the instance's way into a snapshot and out of it.
class SnapshotService {
 public:
  // `cgroup` holds all user code. All outlive this.
  SnapshotService(const Context* context, Machine* machine, Cgroup* cgroup)
      : context_(context), machine_(machine), cgroup_(cgroup) {}
  ~SnapshotService();

  ParkState state() const { return state_; }
  // The connection is expected to break, in the restored machine or in this one.
  bool parked() const { return state_ == ParkState::kParked; }
  // FAILED_PRECONDITION when a call of this kind is illegal now.
  absl::Status Allows(agent::v1::Call::CommandCase command) const;

  // One of the runtimes is null, or both.
  void Prepare(uint64_t call_id, const agent::v1::PrepareSnapshot& prepare, ApiRuntime* api,
               const StdioRuntime* stdio);
  void Restore(uint64_t call_id, const agent::v1::RestoreInstance& restore);

  // All log lines and events are in the connection's output: they do not go into the snapshot.
  void LogsFlushed();

 private:
  absl::Status CanPrepare(const ApiRuntime* api, const StdioRuntime* stdio) const;
  bool Advance(ParkEvent event);
  void StartTimer(int64_t timeout_ms, const char* type, const char* what);
  void TimedOut(const char* type, const std::string& message);
  void StopWaiting();
  void BeforeHooksDone(const agent::v1::FunctionError* error);
  void CheckFrozen();
  void FailPrepare(const agent::v1::FunctionError& error);
  void AfterHooksDone(const agent::v1::FunctionError* error);

  const Context* const context_;
  Machine* const machine_;
  Cgroup* const cgroup_;
  ParkState state_ = ParkState::kServing;
  ApiRuntime* api_ = nullptr;  // The runtime that was stopped; null for the stdio interface.
  uint64_t call_id_ = 0;
  int64_t begin_ns_ = 0;
  EventLoop::TimerId timer_ = 0;
  bool watching_ = false;  // The cgroup's events.
  agent::v1::SnapshotPrepared prepared_;
  agent::v1::InstanceRestored restored_;
};

// What a RestoreInstance may hold, without regard to the state. INVALID_ARGUMENT otherwise.
absl::Status CheckRestore(const agent::v1::RestoreInstance& restore);

}  // namespace hearth::agent
