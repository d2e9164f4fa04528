// SPDX-License-Identifier: Apache-2.0
#include "agent/process_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::LogLine;
using agent::v1::ProcessExit;
using agent::v1::Reply;

namespace {

Reply ExitReply(uint64_t call_id, const ProcessExit& exit) {
  Reply reply;
  reply.set_id(call_id);
  *reply.mutable_process_exit() = exit;
  return reply;
}

}  // namespace

ProcessService::~ProcessService() { context_->loop->Cancel(cleanup_); }

void ProcessService::Start(uint64_t call_id, const agent::v1::StartProcess& start) {
  const agent::v1::ProcessSpec& spec = start.process();
  absl::StatusOr<ProcessPipes> pipes = MakeProcessPipes(spec.stdin_stream() != 0);
  if (!pipes.ok()) return context_->ReplyError(call_id, pipes.status());
  SpawnRequest request = MakeSpawnRequest(*context_->instance, spec, {});
  request.stdio = std::move(pipes->theirs);

  // The id is known only after the start, the callbacks come only from the loop.
  auto id = std::make_shared<uint64_t>(0);
  Process::Callbacks callbacks;
  callbacks.started = [this, id, call_id] {
    Reply reply;
    reply.set_id(call_id);
    reply.mutable_process_started()->set_process_id(*id);
    context_->Reply(reply);
  };
  callbacks.failed = [this, id, call_id](const StartFailure& failure) {
    ios_.erase(*id);
    context_->ReplyError(call_id, failure.step == SandboxStep::kExecute
                                      ? absl::NotFoundError(failure.message)
                                      : absl::FailedPreconditionError(failure.message));
  };
  callbacks.ended = [this, id](const ProcessExit& exit) { Ended(*id, exit); };
  absl::StatusOr<Process*> process = context_->supervisor->Start(
      std::move(request), spec.timeout_ms() * 1'000'000, std::move(callbacks));
  if (!process.ok()) return context_->ReplyError(call_id, process.status());
  *id = (*process)->id();
  Attach(*id, spec, *std::move(pipes));
}

void ProcessService::Attach(uint64_t token, const agent::v1::ProcessSpec& spec,
                            ProcessPipes pipes) {
  const Context& c = *context_;
  Io& io = ios_[token];
  if (pipes.input) {
    io.input = std::make_unique<InputPump>(c.loop, c.mux, c.streams, spec.stdin_stream(),
                                           std::move(pipes.input), nullptr);
  }
  if (spec.stdout_stream() != 0) {
    ++io.open_outputs;
    io.output = MakeOutput(token, spec.stdout_stream(), std::move(pipes.output));
  } else {
    io.output_log = std::make_unique<LogPump>(c.loop, c.logs, LogLine::SOURCE_STDOUT,
                                              spec.log_request_id(), std::move(pipes.output));
  }
  if (spec.stderr_stream() != 0) {
    ++io.open_outputs;
    io.error = MakeOutput(token, spec.stderr_stream(), std::move(pipes.error));
  } else {
    io.error_log = std::make_unique<LogPump>(c.loop, c.logs, LogLine::SOURCE_STDERR,
                                             spec.log_request_id(), std::move(pipes.error));
  }
}

std::unique_ptr<OutputPump> ProcessService::MakeOutput(uint64_t token, uint32_t stream_id,
                                                       UniqueFd pipe) {
  const auto done = [this, token, stream_id](OutputPump::End) {
    context_->mux->EndStream(stream_id).IgnoreError();  // Unless the host aborted it.
    auto it = ios_.find(token);
    if (it == ios_.end()) return;
    --it->second.open_outputs;
    ForgetLater(token);
  };
  return std::make_unique<OutputPump>(context_->loop, context_->mux, context_->streams, stream_id,
                                      0, std::move(pipe), done);
}

void ProcessService::Ended(uint64_t token, const ProcessExit& exit) {
  auto it = ios_.find(token);
  if (it == ios_.end()) return;
  Io& io = it->second;
  io.ended = true;
  // Nothing reads its input any more: the rest of the stream is not wanted.
  io.input.reset();
  io.output_log.reset();
  io.error_log.reset();
  for (uint64_t call_id : std::exchange(io.waiting_calls, {})) {
    context_->Reply(ExitReply(call_id, exit));
  }
  ForgetLater(token);
}

// From the loop, for the caller may be one of the pumps that go with it.
void ProcessService::ForgetLater(uint64_t token) {
  const Io& io = ios_.at(token);
  if (!io.ended || io.open_outputs > 0 || cleanup_ != 0) return;
  cleanup_ = context_->loop->After(0, [this] {
    cleanup_ = 0;
    std::erase_if(ios_, [](const auto& entry) {
      return entry.second.ended && entry.second.open_outputs == 0;
    });
  });
}

void ProcessService::Signal(uint64_t call_id, const agent::v1::SignalProcess& signal) {
  Process* const process = context_->supervisor->Find(signal.process_id());
  if (process == nullptr) {
    return context_->ReplyError(
        call_id, absl::NotFoundError(absl::StrCat("no process ", signal.process_id())));
  }
  if (signal.whole_group()) {
    process->Kill(KillReason::kRequested);
  } else if (const absl::Status status = process->Signal(signal.signal()); !status.ok()) {
    return context_->ReplyError(call_id, status);
  }
  Reply reply;
  reply.set_id(call_id);
  context_->Reply(reply);
}

void ProcessService::Wait(uint64_t call_id, const agent::v1::WaitProcess& wait) {
  Process* const process = context_->supervisor->Find(wait.process_id());
  if (process == nullptr) {
    return context_->ReplyError(
        call_id, absl::NotFoundError(absl::StrCat("no process ", wait.process_id())));
  }
  if (process->state() == ProcessState::kEnded) {
    return context_->Reply(ExitReply(call_id, process->exit()));
  }
  auto io = ios_.find(wait.process_id());
  if (io == ios_.end()) {
    return context_->ReplyError(call_id, absl::FailedPreconditionError(absl::StrCat(
                                             "process ", wait.process_id(), " is the runtime's")));
  }
  io->second.waiting_calls.push_back(call_id);
}

void ProcessService::Usage(uint64_t call_id, const agent::v1::GetProcessUsage& usage) {
  Process* const process = context_->supervisor->Find(usage.process_id());
  if (process == nullptr) {
    return context_->ReplyError(
        call_id, absl::NotFoundError(absl::StrCat("no process ", usage.process_id())));
  }
  Reply reply;
  reply.set_id(call_id);
  *reply.mutable_process_usage() = process->Usage();
  context_->Reply(reply);
}

}  // namespace hearth::agent
