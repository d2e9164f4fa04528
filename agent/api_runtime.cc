// SPDX-License-Identifier: Apache-2.0
// Starting and ending the runtime; its invocations are in api_invocation.cc, what goes on around a
// snapshot in api_snapshot.cc.
#include "agent/api_runtime.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/files.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::FunctionError;
using agent::v1::LogLine;
using agent::v1::ProcessExit;
using agent::v1::Reply;

ApiRuntime::~ApiRuntime() { context_->loop->Cancel(init_timer_); }

SpawnRequest ApiRuntime::RuntimeRequest(const agent::v1::StartRuntime& start) const {
  EnvironmentMap environment = {
      {"AWS_LAMBDA_RUNTIME_API", absl::StrCat("127.0.0.1:", api_->port())},
      {"_HANDLER", start.handler()},
      {"AWS_LAMBDA_FUNCTION_NAME", start.function_name()},
      {"AWS_LAMBDA_FUNCTION_VERSION", start.function_version()},
      {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", absl::StrCat(start.memory_mib())},
      {"AWS_LAMBDA_INITIALIZATION_TYPE", start.snapshot() ? "snap-start" : "on-demand"},
  };
  // A region is nothing to Hearth, but libraries look for one.
  if (context_->instance->environment.count("AWS_REGION") == 0 &&
      start.process().environment().count("AWS_REGION") == 0) {
    environment["AWS_REGION"] = "local";
  }
  agent::v1::ProcessSpec process = start.process();
  if (process.arguments().empty()) process.add_arguments(absl::StrCat(kTaskRoot, "/bootstrap"));
  return MakeSpawnRequest(*context_->instance, process, environment);
}

void ApiRuntime::Start(uint64_t call_id, const agent::v1::StartRuntime& start) {
  if (process_ != nullptr) {
    return context_->ReplyError(call_id, absl::FailedPreconditionError("a runtime runs already"));
  }
  if (api_ == nullptr) {
    absl::StatusOr<std::unique_ptr<RuntimeApi>> api =
        RuntimeApi::Create(context_->loop, port_, this);
    if (!api.ok()) return context_->ReplyError(call_id, api.status());
    api_ = *std::move(api);
  }
  absl::StatusOr<ProcessPipes> pipes = MakeProcessPipes(/*with_input=*/false);
  if (!pipes.ok()) return context_->ReplyError(call_id, pipes.status());
  SpawnRequest request = RuntimeRequest(start);
  request.stdio = std::move(pipes->theirs);

  Process::Callbacks callbacks;
  callbacks.failed = [this](const StartFailure& failure) {
    init_error_ = MakeFunctionError("Runtime.InvalidEntrypoint", failure.message);
  };
  callbacks.ended = [this](const ProcessExit& exit) { RuntimeEnded(exit); };
  absl::StatusOr<Process*> process =
      context_->supervisor->Start(std::move(request), 0, std::move(callbacks));
  if (!process.ok()) return context_->ReplyError(call_id, process.status());

  process_ = *process;
  start_call_id_ = call_id;
  init_error_.reset();
  max_response_bytes_ =
      start.max_response_bytes() == 0 ? kMaxResponseBytes : start.max_response_bytes();
  api_->RuntimeStarted(max_response_bytes_);
  AttachLogs(*std::move(pipes));
  if (start.init_timeout_ms() > 0) {
    init_timer_ = context_->loop->After(
        start.init_timeout_ms() * 1'000'000, [this, timeout_ms = start.init_timeout_ms()] {
          init_timer_ = 0;
          init_error_ =
              MakeFunctionError("Runtime.InitTimeout",
                                absl::StrCat("the runtime did not ask for an invocation within ",
                                             timeout_ms, " ms of its start"));
          process_->Kill(KillReason::kTimedOut);
        });
  }
}

void ApiRuntime::AttachLogs(ProcessPipes pipes) {
  output_log_ = std::make_unique<LogPump>(context_->loop, context_->logs, LogLine::SOURCE_STDOUT,
                                          "", std::move(pipes.output));
  error_log_ = std::make_unique<LogPump>(context_->loop, context_->logs, LogLine::SOURCE_STDERR, "",
                                         std::move(pipes.error));
}

void ApiRuntime::OnRuntimeIdle() {
  output_log_->set_request_id("");
  error_log_->set_request_id("");
  if (start_call_id_ != 0) {
    // Too late when it is being killed for its time-out: RuntimeEnded answers.
    if (!init_error_.has_value()) FinishStart(nullptr);
    return;
  }
  if (hooks_done_) return FinishHooks(nullptr);
  if (InvocationIs(InvocationState::kAnswered)) {
    const UsageSnapshot end = TakeSnapshot(process_->cgroup());
    InvocationOver(&end, /*reusable=*/!process_->killed());
  }
}

void ApiRuntime::OnInitError(FunctionError error) {
  if (start_call_id_ == 0) return FailHooks(std::move(error));
  // Answered when nothing of it runs any more: RuntimeEnded.
  init_error_ = std::move(error);
  process_->Kill(KillReason::kRequested);
}

void ApiRuntime::FinishStart(const FunctionError* error) {
  context_->loop->Cancel(init_timer_);
  init_timer_ = 0;
  Reply reply;
  reply.set_id(std::exchange(start_call_id_, 0));
  agent::v1::RuntimeStarted* const started = reply.mutable_runtime_started();
  started->set_process_id(process_->id());
  *started->mutable_init_usage() = process_->Usage();
  if (error != nullptr) *started->mutable_error() = *error;
  context_->Reply(reply);
}

void ApiRuntime::RuntimeEnded(const ProcessExit& exit) {
  // What it printed last is in the pipes still.
  output_log_.reset();
  error_log_.reset();
  Process* const process = process_;
  const bool starting = start_call_id_ != 0;
  if (starting) {
    const FunctionError error = init_error_.value_or(ErrorOfExit(exit, "runtime"));
    FinishStart(&error);
  }
  process_ = nullptr;
  // From now on nothing of this runtime is heard; a response that was under way is cut.
  api_->RuntimeExited();
  if (starting) return;
  if (hooks_done_) {
    const FunctionError error =
        hook_error_.has_value() ? *hook_error_ : ErrorOfExit(exit, "runtime");
    hook_error_.reset();
    return std::exchange(hooks_done_, nullptr)(&error);
  }
  EndInvocationWith(*process, exit);
}

void ApiRuntime::EndInvocationWith(const Process& process, const ProcessExit& exit) {
  using State = InvocationState;
  const bool collecting = InvocationIs(State::kCollecting);
  if (invocation_ == nullptr || collecting || InvocationIs(State::kOver)) {
    agent::v1::Event event;
    *event.mutable_runtime_exited()->mutable_exit() = exit;
    context_->send_event(std::move(event));
    if (!collecting) return;
    // The payload is still on its way: no user code has seen it.
    SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR,
               MakeFunctionError("Runtime.ExitError", "the runtime ended between invocations"));
    return InvocationOver(nullptr, /*reusable=*/false);
  }
  if (InvocationIs(State::kCancelling)) {
    SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR,
               MakeFunctionError("Runtime.Cancelled", "the invocation was cancelled"));
  } else if (InvocationIs(State::kOffered)) {
    SetFailure(OutcomeOfExit(exit), ErrorOfExit(exit, "runtime"));
  }
  InvocationOver(&process.end_snapshot(), /*reusable=*/false);
}

}  // namespace hearth::agent
