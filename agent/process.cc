// SPDX-License-Identifier: Apache-2.0
#include "agent/process.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::ProcessExit;
using agent::v1::ProcessUsage;

std::optional<ProcessState> NextState(ProcessState state, ProcessEvent event) {
  switch (state) {
    case ProcessState::kStarting:
      if (event == ProcessEvent::kExecuted) return ProcessState::kRunning;
      if (event == ProcessEvent::kShimEnded) return ProcessState::kEmptying;
      break;
    case ProcessState::kRunning:
      if (event == ProcessEvent::kShimEnded) return ProcessState::kEmptying;
      break;
    case ProcessState::kEmptying:
      if (event == ProcessEvent::kGroupEmpty) return ProcessState::kEnded;
      break;
    case ProcessState::kEnded:
      break;
  }
  return std::nullopt;
}

bool Process::Advance(ProcessEvent event) {
  const std::optional<ProcessState> next = NextState(state_, event);
  if (!next.has_value()) return false;
  state_ = *next;
  return true;
}

absl::Status Process::Begin(const SpawnRequest& request, int64_t timeout_ns) {
  program_ = request.arguments.empty() ? "" : request.arguments[0];
  begin_ = TakeSnapshot(cgroup_);
  ASSIGN_OR_RETURN(Spawned spawned, Spawn(request));
  shim_pid_ = spawned.shim_pid;
  status_socket_ = std::move(spawned.status_socket);
  absl::Status watched =
      loop_->Add(status_socket_.get(), EPOLLIN, [this](uint32_t) { DrainStatus(); });
  if (!watched.ok()) {
    cgroup_.Kill().IgnoreError();
    waitpid(shim_pid_, nullptr, 0);
    return watched;
  }
  if (timeout_ns > 0) {
    timer_ = loop_->After(timeout_ns, [this] {
      timer_ = 0;
      Kill(KillReason::kTimedOut);
    });
  }
  return absl::OkStatus();
}

void Process::DrainStatus() {
  while (true) {
    const ShimMessage message = ReceiveShimMessage(status_socket_.get(), &program_pidfd_);
    if (message.kind == ShimMessage::kNone) break;
    HandleMessage(message);
  }
  // At its end the socket stays readable; SIGCHLD tells the rest.
  char byte;
  if (recv(status_socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
    loop_->Remove(status_socket_.get());
  }
}

void Process::HandleMessage(const ShimMessage& message) {
  switch (message.kind) {
    case ShimMessage::kStarted:
      if (!Advance(ProcessEvent::kExecuted)) return;
      started_ = true;
      if (callbacks_.started) callbacks_.started();
      return;
    case ShimMessage::kFailed:
      failed_ = true;
      failure_.step = message.step;
      failure_.error = message.value;
      failure_.message = absl::StrCat("cannot ", SandboxStepName(message.step), ": ", program_,
                                      ": ", strerror(message.value));
      return;
    case ShimMessage::kExited:
      exited_ = true;
      wait_status_ = message.value;
      return;
    case ShimMessage::kNone:
      return;
  }
}

absl::Status Process::Signal(int signal) {
  if (state_ != ProcessState::kRunning || !program_pidfd_) {
    return absl::FailedPreconditionError(absl::StrCat("process ", id_, " does not run"));
  }
  if (syscall(SYS_pidfd_send_signal, program_pidfd_.get(), signal, nullptr, 0U) != 0) {
    if (errno == ESRCH) return absl::OkStatus();  // It has just ended.
    return ErrnoStatus(absl::StrCat("send signal ", signal, " to process ", id_));
  }
  return absl::OkStatus();
}

void Process::Kill(KillReason reason) {
  if (state_ == ProcessState::kEnded) return;
  if (kill_reason_ == KillReason::kNone) kill_reason_ = reason;
  cgroup_.Kill().IgnoreError();  // Only fails when there is no cgroup.kill: checked at boot.
}

void Process::ShimEnded() {
  // Everything in its pid namespace is dead and was reaped by it (pid_namespaces(7)).
  DrainStatus();
  loop_->Remove(status_socket_.get());
  loop_->Cancel(timer_);
  timer_ = 0;
  end_ = TakeSnapshot(cgroup_);
  // It holds the bytes of all that it reaped. Itself it reads a pipe's end and writes nothing; what
  // it held when the program had started must not be taken off, for by the time that is looked at,
  // a short program may be among what it reaped.
  end_.io = IoOf(shim_pid_);
  *exit_.mutable_usage() = UsageBetween(begin_, end_, 0);
  // Its memory.peak began with the group, so it is the peak of this process, exactly.
  exit_.mutable_usage()->set_peak_memory_bytes(end_.memory_peak_bytes);
  Advance(ProcessEvent::kShimEnded);
  cgroup_.Kill().IgnoreError();
}

void Process::FinishWhenEmpty() {
  if (!cgroup_.populated()) return Finish();
  const absl::Status status = loop_->Add(cgroup_.events_fd(), EPOLLPRI, [this](uint32_t) {
    if (cgroup_.populated()) return;
    loop_->Remove(cgroup_.events_fd());
    Finish();
  });
  if (!status.ok()) Finish();
}

void Process::Finish() {
  if (!Advance(ProcessEvent::kGroupEmpty)) return;
  const bool killed = !exited_ || (WIFSIGNALED(wait_status_) && WTERMSIG(wait_status_) == SIGKILL);
  if (failed_ || !started_) {
    if (!failed_) {
      failure_.message = kill_reason_ == KillReason::kTimedOut ? "timed out before it was executed"
                                                               : "ended before it was executed";
    }
  } else if (killed && kill_reason_ == KillReason::kTimedOut) {
    exit_.set_reason(ProcessExit::REASON_TIMED_OUT);
  } else if (killed && cgroup_.oom_kills() > 0) {
    exit_.set_reason(ProcessExit::REASON_OUT_OF_MEMORY);
  } else if (exited_ && WIFEXITED(wait_status_)) {
    exit_.set_reason(ProcessExit::REASON_EXITED);
    exit_.set_exit_code(WEXITSTATUS(wait_status_));
  } else {
    exit_.set_reason(ProcessExit::REASON_SIGNALED);
    exit_.set_signal(exited_ ? WTERMSIG(wait_status_) : SIGKILL);
  }
  cgroup_.Remove();
  // The callbacks may destroy this process.
  const Callbacks callbacks = std::move(callbacks_);
  const StartFailure failure = failure_;
  const ProcessExit exit = exit_;
  const bool started = started_;
  if (!started && callbacks.failed) callbacks.failed(failure);
  if (callbacks.ended) callbacks.ended(exit);
}

ProcessUsage Process::Usage() const {
  if (state_ == ProcessState::kEmptying || state_ == ProcessState::kEnded) return exit_.usage();
  const UsageSnapshot now = TakeSnapshot(cgroup_);
  ProcessUsage usage = UsageBetween(begin_, now, 0);
  usage.set_peak_memory_bytes(now.memory_peak_bytes);
  return usage;
}

}  // namespace hearth::agent
