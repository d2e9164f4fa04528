// SPDX-License-Identifier: Apache-2.0
// The runtime's hooks around a snapshot.
#include <utility>

#include "agent/api_runtime.h"

namespace hearth::agent {

using agent::v1::FunctionError;

void ApiRuntime::RunBeforeHooks(HooksDone done) {
  hook_error_.reset();
  hooks_done_ = std::move(done);
  // A runtime that waits in restore/next has run its own; one without hooks has none.
  if (!api_->PrepareSnapshot()) FinishHooks(nullptr);
}

void ApiRuntime::RunAfterHooks(std::string environment, HooksDone done) {
  hook_error_.reset();
  if (process_ == nullptr) {
    const FunctionError error =
        MakeFunctionError("Runtime.ExitError", "the runtime ended while the instance was parked");
    return done(&error);
  }
  hooks_done_ = std::move(done);
  if (!api_->Restore(std::move(environment))) FinishHooks(nullptr);
}

void ApiRuntime::FinishHooks(const FunctionError* error) {
  // Too late when it is being killed: RuntimeEnded tells the error.
  if (hook_error_.has_value()) return;
  std::exchange(hooks_done_, nullptr)(error);
}

void ApiRuntime::FailHooks(FunctionError error) {
  if (!hook_error_.has_value()) hook_error_ = std::move(error);
  process_->Kill(KillReason::kRequested);
}

void ApiRuntime::OnRuntimeSuspended() {
  if (start_call_id_ != 0) {
    if (!init_error_.has_value()) FinishStart(nullptr);
    return;
  }
  if (hooks_done_) FinishHooks(nullptr);
}

void ApiRuntime::OnRestoreError(FunctionError error) {
  if (hooks_done_) return FailHooks(std::move(error));
  // Nothing was snapshotted: the runtime was told to go on because there is an invocation.
  if (invocation_ != nullptr && !InvocationIs(InvocationState::kOver)) {
    SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR, std::move(error));
  }
  process_->Kill(KillReason::kRequested);
}

void ApiRuntime::FlushLogs() {
  if (output_log_ != nullptr) output_log_->Flush();
  if (error_log_ != nullptr) error_log_->Flush();
}

agent::v1::ProcessUsage ApiRuntime::Usage() const { return process_->Usage(); }

void ApiRuntime::Kill() {
  if (process_ != nullptr) process_->Kill(KillReason::kRequested);
}

}  // namespace hearth::agent
