// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/api_payload.h"
#include "agent/context.h"
#include "agent/invocation_state.h"
#include "agent/runtime_api.h"

namespace hearth::agent {

// A function whose runtime stays and asks for invocations on the Runtime API. An invocation is over
// when the runtime has answered it and asks for the next (or ends, or meets the deadline): so its
// usage has everything that was done for it, and the instance can be paused at once.
class ApiRuntime : public RuntimeApiDelegate {
 public:
  // `port`: kRuntimeApiPort, or 0 in tests.
  ApiRuntime(const Context* context, uint16_t port) : context_(context), port_(port) {}
  ~ApiRuntime() override;

  // Starts the runtime's process. One that failed may be started again: the agent itself never
  // tries twice.
  void Start(uint64_t call_id, const agent::v1::StartRuntime& start);
  void Invoke(uint64_t call_id, const agent::v1::Invoke& invoke);
  bool Cancel(const std::string& invocation_id);

  // Around a snapshot; what comes in between is SnapshotService's. `done` is called once, perhaps
  // at once; with an error when nothing of the runtime runs any more.
  using HooksDone = std::function<void(const agent::v1::FunctionError* error)>;
  bool alive() const { return process_ != nullptr; }
  // It runs, and no start and no invocation is under way.
  bool idle() const { return alive() && start_call_id_ == 0 && invocation_ == nullptr; }
  // Only when idle(): the before-snapshot hooks, until the runtime is ready to be stopped.
  void RunBeforeHooks(HooksDone done);
  // The after-restore hooks, until the runtime waits for an invocation. `environment` as in
  // RuntimeApi::Restore.
  void RunAfterHooks(std::string environment, HooksDone done);
  // While hooks run: they have failed, so the runtime is killed and `done` gets `error`.
  void FailHooks(agent::v1::FunctionError error);
  void FlushLogs();
  agent::v1::ProcessUsage Usage() const;  // Only when alive().
  void Kill();

  void OnRuntimeIdle() override;
  void OnRuntimeSuspended() override;
  void OnInitError(agent::v1::FunctionError error) override;
  void OnRestoreError(agent::v1::FunctionError error) override;
  void OnResponseBegin(const std::string& content_type) override;
  void OnResponseData(absl::string_view data) override;
  void OnResponseEnd(const agent::v1::FunctionError* error) override;
  void OnInvocationError(agent::v1::FunctionError error) override;

 private:
  struct Invocation {
    uint64_t call_id = 0;
    agent::v1::Invoke invoke;
    std::unique_ptr<RequestPayload> payload;
    std::unique_ptr<ResponseSender> response;
    uint64_t response_bytes = 0;
    UsageSnapshot begin;
    uint64_t sampled_peak_bytes = 0;
    EventLoop::TimerId deadline = 0;
    EventLoop::TimerId sampler = 0;
    InvocationState state = InvocationState::kCollecting;
    agent::v1::InvocationResult result;
  };

  SpawnRequest RuntimeRequest(const agent::v1::StartRuntime& start) const;
  void AttachLogs(ProcessPipes pipes);
  void FinishStart(const agent::v1::FunctionError* error);
  void FinishHooks(const agent::v1::FunctionError* error);
  void RuntimeEnded(const agent::v1::ProcessExit& exit);
  void EndInvocationWith(const Process& process, const agent::v1::ProcessExit& exit);
  // Whether `invocation_` is there and in `state`.
  bool InvocationIs(InvocationState state) const;
  bool AdvanceInvocation(InvocationEvent event);
  void PayloadArrived(bool aborted);
  void Offer();
  void Sample();
  void DeadlineMet();
  void SetFailure(agent::v1::Outcome outcome, agent::v1::FunctionError error);
  void InvocationOver(const UsageSnapshot* end, bool reusable);
  void ReplyWhenSent();

  const Context* const context_;
  const uint16_t port_;
  std::unique_ptr<RuntimeApi> api_;
  uint64_t max_response_bytes_ = 0;
  uint64_t start_call_id_ = 0;  // While the start is not answered.
  EventLoop::TimerId init_timer_ = 0;
  std::optional<agent::v1::FunctionError> init_error_;  // Of a start that failed.
  HooksDone hooks_done_;                                // While hooks run.
  std::optional<agent::v1::FunctionError> hook_error_;
  Process* process_ = nullptr;  // Null when none runs.
  std::unique_ptr<LogPump> output_log_;
  std::unique_ptr<LogPump> error_log_;
  std::unique_ptr<Invocation> invocation_;
  std::unique_ptr<Invocation> finished_;  // Kept until the next: its sender may be on the stack.
};

}  // namespace hearth::agent
