// SPDX-License-Identifier: Apache-2.0
#include "agent/context.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/files.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::FunctionError;
using agent::v1::ProcessExit;

void Context::Reply(const agent::v1::Reply& reply) const {
  flush_logs();
  if (mux->SendReply(reply).ok() || reply.has_error()) return;
  // A reply over the size of a frame: bounds elsewhere make it impossible, but a call must be
  // answered.
  ReplyError(reply.id(), absl::InternalError("the reply does not fit a frame"));
}

void Context::ReplyError(uint64_t call_id, const absl::Status& status) const {
  agent::v1::Reply reply;
  reply.set_id(call_id);
  // absl's codes are google.rpc.Code's.
  reply.mutable_error()->set_code(static_cast<int32_t>(status.code()));
  reply.mutable_error()->set_message(Utf8(status.message(), 4096));
  flush_logs();
  mux->SendReply(reply).IgnoreError();
}

SpawnRequest MakeSpawnRequest(const Instance& instance, const agent::v1::ProcessSpec& process,
                              const EnvironmentMap& extra) {
  EnvironmentMap environment = {
      {"PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"},
      {"LANG", "C.UTF-8"},
      {"TZ", ":UTC"},
      {"HOME", "/tmp"},
      {"LAMBDA_TASK_ROOT", kTaskRoot},
      {"LAMBDA_RUNTIME_DIR", kRuntimeDirectory},
  };
  for (const auto& [name, value] : instance.environment) environment[name] = value;
  for (const auto& [name, value] : process.environment()) environment[name] = value;
  for (const auto& [name, value] : extra) environment[name] = value;

  SpawnRequest request;
  request.arguments.assign(process.arguments().begin(), process.arguments().end());
  for (const auto& [name, value] : environment) {
    request.environment.push_back(absl::StrCat(name, "=", value));
  }
  request.working_directory =
      process.working_directory().empty() ? kTaskRoot : process.working_directory();
  request.sandbox = instance.sandbox;
  return request;
}

absl::StatusOr<ProcessPipes> MakeProcessPipes(bool with_input) {
  ProcessPipes pipes;
  if (with_input) {
    ASSIGN_OR_RETURN(PipeEnds input, MakePipe(/*ours_is_read=*/false));
    pipes.theirs[0] = std::move(input.read);
    pipes.input = std::move(input.write);
  } else {
    pipes.theirs[0].reset(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!pipes.theirs[0]) return ErrnoStatus("open /dev/null");
  }
  ASSIGN_OR_RETURN(PipeEnds output, MakePipe(/*ours_is_read=*/true));
  pipes.theirs[1] = std::move(output.write);
  pipes.output = std::move(output.read);
  ASSIGN_OR_RETURN(PipeEnds error, MakePipe(/*ours_is_read=*/true));
  pipes.theirs[2] = std::move(error.write);
  pipes.error = std::move(error.read);
  return pipes;
}

FunctionError MakeFunctionError(absl::string_view type, absl::string_view message) {
  FunctionError error;
  error.set_type(std::string(type));
  error.set_message(Utf8(message, 4096));
  return error;
}

FunctionError ErrorOfExit(const ProcessExit& exit, absl::string_view what) {
  FunctionError error;
  switch (exit.reason()) {
    case ProcessExit::REASON_TIMED_OUT:
      return MakeFunctionError("Runtime.TimedOut", absl::StrCat("the ", what,
                                                                " was killed at its "
                                                                "deadline"));
    case ProcessExit::REASON_OUT_OF_MEMORY:
      return MakeFunctionError("Runtime.OutOfMemory",
                               absl::StrCat("the ", what, " was killed: out of memory"));
    case ProcessExit::REASON_SIGNALED:
      error = MakeFunctionError(
          "Runtime.ExitError", absl::StrCat("the ", what, " was killed by signal ", exit.signal()));
      break;
    default:
      error =
          MakeFunctionError("Runtime.ExitError",
                            absl::StrCat("the ", what, " exited with status ", exit.exit_code()));
      break;
  }
  error.set_exit_code(exit.exit_code());
  error.set_signal(exit.signal());
  return error;
}

agent::v1::Outcome OutcomeOfExit(const ProcessExit& exit) {
  if (exit.reason() == ProcessExit::REASON_TIMED_OUT) return agent::v1::OUTCOME_TIMED_OUT;
  if (exit.reason() == ProcessExit::REASON_OUT_OF_MEMORY) return agent::v1::OUTCOME_OUT_OF_MEMORY;
  return agent::v1::OUTCOME_FUNCTION_ERROR;
}

}  // namespace hearth::agent
