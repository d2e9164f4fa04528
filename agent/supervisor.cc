// SPDX-License-Identifier: Apache-2.0
#include "agent/supervisor.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(EventLoop* loop, Cgroup* cgroup) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return ErrnoStatus("block SIGCHLD");
  UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return ErrnoStatus("signalfd");
  const int fd = signals.get();
  std::unique_ptr<Supervisor> supervisor(new Supervisor(loop, cgroup, std::move(signals)));
  Supervisor* const raw = supervisor.get();
  RETURN_IF_ERROR(loop->Add(fd, EPOLLIN, [raw](uint32_t) { raw->ReapChildren(); }));
  return supervisor;
}

Supervisor::~Supervisor() {
  loop_->Remove(signals_.get());
  for (auto& [id, process] : processes_) {
    loop_->Cancel(process->timer_);
    if (process->status_socket_) loop_->Remove(process->status_socket_.get());
    loop_->Remove(process->cgroup_.events_fd());
    if (process->state_ == ProcessState::kEnded) continue;
    process->Kill(KillReason::kRequested);
    if (process->state_ != ProcessState::kEmptying) waitpid(process->shim_pid_, nullptr, 0);
  }
}

absl::StatusOr<Process*> Supervisor::Start(SpawnRequest request, int64_t timeout_ns,
                                           Process::Callbacks callbacks) {
  ForgetOldest();
  if (processes_.size() >= kMaxProcesses) {
    return absl::ResourceExhaustedError(absl::StrCat(kMaxProcesses, " processes run already"));
  }
  const uint64_t id = ++last_id_;
  ASSIGN_OR_RETURN(Cgroup cgroup, Cgroup::Create(absl::StrCat(cgroup_->path(), "/p", id)));
  RETURN_IF_ERROR(cgroup.KillTogetherWhenOutOfMemory());
  request.cgroup_fd = cgroup.directory_fd();
  callbacks.ended = [this, ended = std::move(callbacks.ended)](const agent::v1::ProcessExit& exit) {
    if (ended) ended(exit);
    TellWhenEmpty();
  };
  std::unique_ptr<Process> process(new Process(loop_, id, std::move(cgroup), std::move(callbacks)));
  RETURN_IF_ERROR(process->Begin(request, timeout_ns));
  Process* const raw = process.get();
  processes_[id] = std::move(process);
  return raw;
}

Process* Supervisor::Find(uint64_t id) {
  auto it = processes_.find(id);
  return it == processes_.end() ? nullptr : it->second.get();
}

void Supervisor::ReapChildren() {
  signalfd_siginfo ignored;
  while (read(signals_.get(), &ignored, sizeof(ignored)) > 0) {
  }
  while (true) {
    // Looked at before it is reaped, for /proc/PID/io ends with the zombie.
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) break;
    Process* ended = nullptr;
    for (auto& [id, process] : processes_) {
      if (process->shim_pid_ == info.si_pid && process->state_ < ProcessState::kEmptying) {
        ended = process.get();
      }
    }
    if (ended != nullptr) ended->ShimEnded();
    waitpid(info.si_pid, nullptr, 0);
    if (ended != nullptr) ended->FinishWhenEmpty();
  }
}

void Supervisor::TellWhenEmpty() {
  if (when_empty_ && running() == 0) std::exchange(when_empty_, nullptr)();
}

void Supervisor::ForgetOldest() {
  if (processes_.size() < kMaxProcesses) return;
  for (auto it = processes_.begin(); it != processes_.end(); ++it) {
    if (it->second->state() != ProcessState::kEnded) continue;
    processes_.erase(it);
    return;
  }
}

void Supervisor::KillAll(std::function<void()> empty) {
  for (auto& [id, process] : processes_) process->Kill(KillReason::kRequested);
  if (running() == 0) return empty();
  when_empty_ = std::move(empty);
}

size_t Supervisor::running() const {
  size_t count = 0;
  for (const auto& [id, process] : processes_) {
    if (process->state() != ProcessState::kEnded) ++count;
  }
  return count;
}

}  // namespace hearth::agent
