// SPDX-License-Identifier: Apache-2.0
#include "agent/stdio_runtime.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/runtime_api.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::LogLine;
using agent::v1::ProcessExit;
using agent::v1::Reply;

namespace {

absl::Status CheckOne(const Sandbox& sandbox, const std::string& program) {
  UniqueFd root(
      open(sandbox.root.empty() ? "/" : sandbox.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;  // Symbolic links mean what they mean to user code.
  UniqueFd file(
      static_cast<int>(syscall(SYS_openat2, root.get(), program.c_str(), &how, sizeof(how))));
  struct stat info = {};
  if (!file || fstat(file.get(), &info) != 0) {
    return absl::NotFoundError(absl::StrCat(program, " does not exist"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::NotFoundError(absl::StrCat(program, " is not a file"));
  }
  // No file of the images belongs to the user or its group.
  if ((info.st_mode & S_IXOTH) == 0) {
    return absl::PermissionDeniedError(absl::StrCat(program, " may not be executed (chmod +x)"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckExecutable(const Sandbox& sandbox, absl::string_view program,
                             absl::string_view path_variable) {
  if (absl::StartsWith(program, "/")) return CheckOne(sandbox, std::string(program));
  if (absl::StrContains(program, "/")) {
    return CheckOne(sandbox, absl::StrCat(kTaskRoot, "/", program));
  }
  absl::Status status = absl::NotFoundError(absl::StrCat(program, " does not exist in PATH"));
  for (absl::string_view directory : absl::StrSplit(path_variable, ':', absl::SkipEmpty())) {
    absl::Status found = CheckOne(sandbox, absl::StrCat(directory, "/", program));
    if (found.ok()) return found;
    if (!absl::IsNotFound(found)) status = found;
  }
  return status;
}

void StdioRuntime::Start(uint64_t call_id, const agent::v1::StartRuntime& start) {
  Reply reply;
  reply.set_id(call_id);
  agent::v1::RuntimeStarted* const started = reply.mutable_runtime_started();
  const SpawnRequest request = MakeSpawnRequest(*context_->instance, start.process(), {});
  std::string path;
  for (const std::string& entry : request.environment) {
    if (absl::StartsWith(entry, "PATH=")) path = entry.substr(5);
  }
  const absl::Status status = request.arguments.empty()
                                  ? absl::InvalidArgumentError("the function names no program")
                                  : CheckExecutable(request.sandbox, request.arguments[0], path);
  if (status.ok()) {
    start_ = start;
    started_ = true;
    if (start_.max_response_bytes() == 0) start_.set_max_response_bytes(kMaxResponseBytes);
  } else {
    *started->mutable_error() =
        MakeFunctionError("Runtime.InvalidEntrypoint", std::string(status.message()));
  }
  context_->Reply(reply);
}

void StdioRuntime::Invoke(uint64_t call_id, const agent::v1::Invoke& invoke) {
  if (invocation_ != nullptr) {
    return context_->ReplyError(call_id, absl::FailedPreconditionError(absl::StrCat(
                                             "invocation ", invocation_->id, " is still running")));
  }
  absl::StatusOr<ProcessPipes> pipes = MakeProcessPipes(invoke.request_stream() != 0);
  if (!pipes.ok()) return context_->ReplyError(call_id, pipes.status());
  SpawnRequest request =
      MakeSpawnRequest(*context_->instance, start_.process(),
                       {{"HEARTH_INVOCATION_ID", invoke.invocation_id()},
                        {"HEARTH_DEADLINE_MS", absl::StrCat(invoke.deadline_unix_ms())},
                        {"HEARTH_CONTENT_TYPE", invoke.content_type()}});
  request.stdio = std::move(pipes->theirs);

  Process::Callbacks callbacks;
  callbacks.started = [this] { invocation_->result.set_user_code_started(true); };
  callbacks.failed = [this](const StartFailure& failure) {
    *invocation_->result.mutable_error() =
        MakeFunctionError("Runtime.InvalidEntrypoint", failure.message);
  };
  callbacks.ended = [this](const ProcessExit& exit) { ProcessEnded(exit); };
  absl::StatusOr<Process*> process = context_->supervisor->Start(
      std::move(request), invoke.timeout_ms() * 1'000'000, std::move(callbacks));
  if (!process.ok()) return context_->ReplyError(call_id, process.status());

  invocation_ = std::make_unique<Invocation>();
  invocation_->call_id = call_id;
  invocation_->id = invoke.invocation_id();
  invocation_->response_stream = invoke.response_stream();
  invocation_->process = *process;
  Attach(invoke, *std::move(pipes));
}

void StdioRuntime::Attach(const agent::v1::Invoke& invoke, ProcessPipes pipes) {
  const Context& c = *context_;
  Invocation& invocation = *invocation_;
  if (pipes.input) {
    // Half a payload must not look like a whole one.
    invocation.input =
        std::make_unique<InputPump>(c.loop, c.mux, c.streams, invoke.request_stream(),
                                    std::move(pipes.input), [this] { Cancel(invocation_->id); });
  }
  if (invoke.response_stream() != 0) {
    invocation.output = std::make_unique<OutputPump>(
        c.loop, c.mux, c.streams, invoke.response_stream(), start_.max_response_bytes(),
        std::move(pipes.output), [this](OutputPump::End end) { OutputEnded(end); });
  } else {
    invocation.output_ended = true;
    invocation.output_log = std::make_unique<LogPump>(c.loop, c.logs, LogLine::SOURCE_STDOUT,
                                                      invocation.id, std::move(pipes.output));
  }
  invocation.error_log = std::make_unique<LogPump>(c.loop, c.logs, LogLine::SOURCE_STDERR,
                                                   invocation.id, std::move(pipes.error));
}

bool StdioRuntime::Cancel(const std::string& invocation_id) {
  if (invocation_ == nullptr || invocation_->id != invocation_id) return false;
  invocation_->cancelled = true;
  if (!invocation_->process_ended) invocation_->process->Kill(KillReason::kRequested);
  return true;
}

void StdioRuntime::OutputEnded(OutputPump::End end) {
  invocation_->output_ended = true;
  if (end == OutputPump::End::kTooLong) {
    invocation_->too_long = true;
    if (!invocation_->process_ended) invocation_->process->Kill(KillReason::kRequested);
  } else if (end == OutputPump::End::kAborted) {
    Cancel(invocation_->id);
  }
  FinishWhenDone();
}

void StdioRuntime::ProcessEnded(const ProcessExit& exit) {
  Invocation& invocation = *invocation_;
  invocation.process_ended = true;
  agent::v1::InvocationResult& result = invocation.result;
  *result.mutable_usage() = exit.usage();
  if (!result.user_code_started()) {
    // The program was never executed; `failed` has said why.
    result.set_outcome(exit.reason() == ProcessExit::REASON_TIMED_OUT
                           ? agent::v1::OUTCOME_TIMED_OUT
                           : agent::v1::OUTCOME_FUNCTION_ERROR);
    result.set_reusable(true);
  } else if (exit.reason() == ProcessExit::REASON_EXITED && exit.exit_code() == 0) {
    result.set_outcome(agent::v1::OUTCOME_SUCCEEDED);
    result.set_reusable(true);
  } else {
    result.set_outcome(OutcomeOfExit(exit));
    *result.mutable_error() = ErrorOfExit(exit, "program");
    result.set_reusable(result.outcome() == agent::v1::OUTCOME_FUNCTION_ERROR);
  }
  if (result.outcome() != agent::v1::OUTCOME_SUCCEEDED && !invocation.output_ended) {
    // The response is void: do not wait for a host that is slow to take it.
    invocation.output.reset();
    invocation.output_ended = true;
  }
  invocation.input.reset();
  invocation.error_log.reset();
  invocation.output_log.reset();
  FinishWhenDone();
}

void StdioRuntime::FinishWhenDone() {
  if (!invocation_->process_ended || !invocation_->output_ended) return;
  Invocation& invocation = *invocation_;
  agent::v1::InvocationResult& result = invocation.result;
  if (invocation.too_long) {
    result.set_outcome(agent::v1::OUTCOME_FUNCTION_ERROR);
    *result.mutable_error() = MakeFunctionError(
        "Function.ResponseSizeTooLarge",
        absl::StrCat("the response is over the limit of ", start_.max_response_bytes(), " bytes"));
    result.set_reusable(true);
  } else if (invocation.cancelled) {
    result.set_outcome(agent::v1::OUTCOME_FUNCTION_ERROR);
    *result.mutable_error() =
        MakeFunctionError("Runtime.Cancelled", "the invocation was cancelled");
    result.set_reusable(false);
  }
  if (result.outcome() == agent::v1::OUTCOME_SUCCEEDED) {
    result.set_content_type("application/octet-stream");
    context_->mux->EndStream(invocation.response_stream).IgnoreError();
  } else {
    context_->mux->AbortStream(invocation.response_stream, "the invocation failed");
  }
  Reply reply;
  reply.set_id(invocation.call_id);
  *reply.mutable_invocation_result() = result;
  finished_ = std::move(invocation_);
  context_->Reply(reply);
}

}  // namespace hearth::agent
