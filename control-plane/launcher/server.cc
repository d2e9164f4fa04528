// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "control-plane/launcher/limits.h"
#include "control-plane/launcher/listener.h"
#include "control-plane/launcher/pagemap.h"

namespace hearth::launcher {
namespace {

uint64_t Nanoseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}

void SendKill(int pidfd) {
  // Fails only for a process that has ended, whose pidfd says so.
  syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(EventLoop* loop, ServerOptions options) {
  std::unique_ptr<Server> server(new Server(loop, std::move(options)));
  RETURN_IF_ERROR(loop->Add(server->options_.listener.get(), EPOLLIN,
                            [self = server.get()](uint32_t) { self->Accept(); }));
  return server;
}

Server::~Server() {
  loop_->Remove(options_.listener.get());
  for (auto& [number, vmm] : vmms_) loop_->Remove(vmm.pidfd.get());
}

void Server::Accept() {
  UniqueFd connection(
      accept4(options_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection) return;  // The client left before we came.
  if (const absl::Status admitted = Admit(connection.get()); !admitted.ok()) {
    options_.log(absl::StrCat("refused a connection: ", admitted.message()));
    return;
  }
  v1::Hello hello;
  hello.set_build(options_.build);
  hello.set_vsock(true);
  auto session = Session::Create(loop_, this, std::move(connection), std::move(hello));
  if (!session.ok()) {
    options_.log(absl::StrCat("lost a connection: ", session.status().message()));
    return;
  }
  Session* const key = session->get();
  sessions_.emplace(key, *std::move(session));
}

absl::Status Server::Admit(int connection) {
  RETURN_IF_ERROR(CheckPeer(connection, options_.allowed_uid));
  if (shutting_down_) return absl::UnavailableError("the launcher is ending");
  if (sessions_.size() >= kMaxSessions) return absl::ResourceExhaustedError("too many sessions");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Server::OpenKvm() {
  UniqueFd kvm(openat(options_.device_folder.get(), "kvm", O_RDWR | O_CLOEXEC));
  if (kvm) return kvm;
  if (errno == ENOENT) {
    return absl::FailedPreconditionError(
        "this host has no /dev/kvm: virtualisation is off in its firmware, or the module kvm_intel "
        "or kvm_amd is not loaded");
  }
  if (errno == ENXIO || errno == ENODEV) {
    return absl::FailedPreconditionError("/dev/kvm is there, but no KVM module answers for it");
  }
  return ErrnoStatus("opening /dev/kvm");
}

absl::StatusOr<uint32_t> Server::TakeUid() {
  for (uint32_t tried = 0; tried < options_.uid_count; ++tried) {
    const uint32_t uid = options_.uid_base + next_uid_;
    next_uid_ = (next_uid_ + 1) % options_.uid_count;
    if (uids_.count(uid) == 0) return uid;
  }
  return absl::ResourceExhaustedError("every uid for VMMs is in use");
}

std::map<uint64_t, Server::Vmm>::iterator Server::Find(const Session* session, uint64_t id) {
  return std::find_if(vmms_.begin(), vmms_.end(), [&](const auto& entry) {
    return entry.second.session == session && entry.second.id == id;
  });
}

absl::StatusOr<SpawnedVmm> Server::Spawn(Session* session, uint64_t id, uint32_t memory_mib,
                                         UniqueFd control) {
  if (shutting_down_) return absl::UnavailableError("the launcher is ending");
  if (vmms_.size() >= kMaxVmms) return absl::ResourceExhaustedError("too many VMMs");
  if (Find(session, id) != vmms_.end()) {
    return absl::AlreadyExistsError(absl::StrCat("this session has a VMM ", id));
  }
  ASSIGN_OR_RETURN(const UniqueFd kvm, OpenKvm());
  ASSIGN_OR_RETURN(const uint32_t uid, TakeUid());
  const uint64_t number = next_number_++;
  UniqueFd cgroup;
  if (options_.cgroups) {
    ASSIGN_OR_RETURN(cgroup, options_.cgroups->Make(number, memory_mib));
  }
  SpawnSpec spec;
  spec.executable = options_.executable.get();
  spec.control = control.get();
  spec.kvm = kvm.get();
  spec.null = options_.null.get();
  spec.error = options_.error;
  spec.cgroup = cgroup.get();
  spec.uid = uid;
  spec.memory_mib = memory_mib;
  absl::StatusOr<Spawned> spawned = SpawnJailed(spec);
  SpawnedVmm result;
  absl::Status status = spawned.status();
  if (status.ok()) {
    result.pid = spawned->pid;
    result.pidfd.reset(fcntl(spawned->pidfd.get(), F_DUPFD_CLOEXEC, 0));
    if (!result.pidfd) status = ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
  }
  if (spawned.ok()) {
    Vmm vmm{session, id, uid, spawned->pid, std::move(spawned->pidfd)};
    const absl::Status watched =
        loop_->Add(vmm.pidfd.get(), EPOLLIN, [this, number](uint32_t) { Reap(number); });
    if (status.ok()) status = watched;
    if (!status.ok()) SendKill(vmm.pidfd.get());
    uids_.emplace(uid, number);
    if (!status.ok()) vmm.session = nullptr;
    vmms_.emplace(number, std::move(vmm));
  } else if (options_.cgroups) {
    options_.cgroups->Remove(number);
  }
  RETURN_IF_ERROR(status);
  return result;
}

void Server::Kill(Session* session, uint64_t id) {
  const auto found = Find(session, id);
  if (found != vmms_.end()) SendKill(found->second.pidfd.get());
}

void Server::SetMemory(Session* session, uint64_t id, uint32_t memory_mib) {
  const auto found = Find(session, id);
  if (found == vmms_.end()) return;
  const auto& [number, vmm] = *found;
  absl::Status limited = LimitMemory(vmm.pid, vmm.uid, memory_mib);
  if (limited.ok() && options_.cgroups) limited = options_.cgroups->SetMemory(number, memory_mib);
  if (limited.ok()) return;
  // No guest runs without its limits.
  options_.log(absl::StrCat("ended a VMM that could not be limited: ", limited.message()));
  SendKill(vmm.pidfd.get());
}

absl::StatusOr<UniqueFd> Server::OpenPagemapOf(Session* session, uint64_t id) {
  const auto found = Find(session, id);
  if (found == vmms_.end()) return absl::NotFoundError("this session has no such VMM");
  return OpenPagemap(options_.process_folder.get(), found->second.pid);
}

// A VMM that has ended but was not reaped yet does not run: its pidfd says so.
std::vector<uint64_t> Server::List(const Session* session) {
  std::vector<uint64_t> ids;
  for (const auto& [number, vmm] : vmms_) {
    pollfd ended{vmm.pidfd.get(), POLLIN, 0};
    if (vmm.session == session && poll(&ended, 1, 0) == 0) ids.push_back(vmm.id);
  }
  return ids;
}

void Server::Ended(Session* session, const absl::Status& why) {
  options_.log(absl::StrCat("a session ended: ", why.message()));
  for (auto& [number, vmm] : vmms_) {
    if (vmm.session != session) continue;
    vmm.session = nullptr;
    SendKill(vmm.pidfd.get());
  }
  // The session is still on the stack.
  loop_->Post([this, session] { sessions_.erase(session); });
}

void Server::Reap(uint64_t number) {
  const auto it = vmms_.find(number);
  if (it == vmms_.end()) return;
  Vmm& vmm = it->second;
  siginfo_t info{};
  rusage usage{};
  // Not the library's waitid, which does not tell the resources used.
  if (syscall(SYS_waitid, P_PIDFD, vmm.pidfd.get(), &info, WEXITED | WNOHANG, &usage) != 0 ||
      info.si_pid == 0) {
    return;
  }
  hearth::launcher::v1::Exited exited;
  exited.set_id(vmm.id);
  if (info.si_code == CLD_EXITED) {
    exited.set_exit_code(info.si_status);
  } else {
    exited.set_signal(info.si_status);
  }
  exited.set_cpu_ns(Nanoseconds(usage.ru_utime) + Nanoseconds(usage.ru_stime));
  exited.set_peak_rss_bytes(static_cast<uint64_t>(usage.ru_maxrss) * 1024);
  Session* const session = vmm.session;
  loop_->Remove(vmm.pidfd.get());
  uids_.erase(vmm.uid);
  vmms_.erase(it);
  if (options_.cgroups) options_.cgroups->Remove(number);
  if (session != nullptr) session->SendExited(exited);
  StopWhenEmpty();
}

void Server::ShutDown() {
  shutting_down_ = true;
  for (const auto& [number, vmm] : vmms_) SendKill(vmm.pidfd.get());
  StopWhenEmpty();
}

void Server::StopWhenEmpty() {
  if (shutting_down_ && vmms_.empty()) loop_->Stop();
}

}  // namespace hearth::launcher
