// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/session.h"

#include <sys/epoll.h>

#include <optional>
#include <utility>

#include "control-plane/launcher/limits.h"
#include "wire/handshake.h"
#include "wire/limits.h"

namespace hearth::launcher {

absl::StatusOr<std::unique_ptr<Session>> Session::Create(EventLoop* loop, SessionHost* host,
                                                         UniqueFd connection, v1::Hello hello) {
  std::unique_ptr<Session> session(new Session(loop, host, std::move(connection)));
  RETURN_IF_ERROR(loop->Add(session->socket_.fd(), EPOLLIN,
                            [self = session.get()](uint32_t events) { self->OnEvents(events); }));
  hello.set_min_version(wire::kLauncherMinVersion);
  hello.set_max_version(wire::kLauncherMaxVersion);
  v1::Frame frame;
  *frame.mutable_hello() = std::move(hello);
  RETURN_IF_ERROR(session->Send(frame));
  return session;
}

Session::~Session() { loop_->Remove(socket_.fd()); }

void Session::OnEvents(uint32_t events) {
  if (ended_) return;
  absl::Status status = absl::OkStatus();
  if ((events & EPOLLOUT) != 0) status = socket_.Flush();
  if (status.ok()) status = WatchForWriting();
  if (status.ok() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) status = Receive();
  if (status.ok()) return;
  ended_ = true;
  host_->Ended(this, status);
}

absl::Status Session::Receive() {
  while (true) {
    ASSIGN_OR_RETURN(std::optional<wire::FdFrame> frame, socket_.TryReceive());
    if (!frame.has_value()) return absl::OkStatus();
    RETURN_IF_ERROR(Handle(*std::move(frame)));
  }
}

absl::Status Session::Handle(wire::FdFrame received) {
  v1::Frame frame;
  if (!frame.ParseFromString(received.payload)) {
    return absl::InvalidArgumentError("a frame that is no hearth.launcher.v1.Frame");
  }
  if (version_ == 0) {
    if (!frame.has_hello()) return absl::InvalidArgumentError("a message before Hello");
    ASSIGN_OR_RETURN(version_, wire::NegotiateVersion(
                                   "hearth.launcher.v1", "hearthd",
                                   {wire::kLauncherMinVersion, wire::kLauncherMaxVersion},
                                   {frame.hello().min_version(), frame.hello().max_version()}));
    return absl::OkStatus();
  }
  if (frame.has_spawn()) return HandleSpawn(frame.spawn(), std::move(received.fds));
  if (frame.has_kill()) {
    host_->Kill(this, frame.kill().id());
    return absl::OkStatus();
  }
  if (frame.has_set_memory()) {
    const uint32_t memory_mib = frame.set_memory().memory_mib();
    if (memory_mib == 0 || memory_mib > kMaxGuestMemoryMib) {
      return absl::InvalidArgumentError(absl::StrCat("a SetMemory with ", memory_mib, " MiB"));
    }
    host_->SetMemory(this, frame.set_memory().id(), memory_mib);
    return absl::OkStatus();
  }
  if (frame.has_open_pagemap()) return HandleOpenPagemap(frame.open_pagemap());
  if (frame.has_list() && version_ >= wire::kLauncherListVersion) return HandleList(frame.list());
  return absl::InvalidArgumentError("a frame that hearthd does not send");
}

absl::Status Session::HandleSpawn(const v1::Spawn& spawn, std::vector<UniqueFd> fds) {
  if (spawn.control_fd() >= fds.size()) {
    return absl::InvalidArgumentError("a Spawn without its control socket");
  }
  if (spawn.memory_mib() > kMaxGuestMemoryMib) {
    return absl::InvalidArgumentError(absl::StrCat("a Spawn with ", spawn.memory_mib(), " MiB"));
  }
  absl::StatusOr<SpawnedVmm> vmm =
      host_->Spawn(this, spawn.id(), spawn.memory_mib(), std::move(fds[spawn.control_fd()]));
  v1::Frame frame;
  v1::Spawned& spawned = *frame.mutable_spawned();
  spawned.set_id(spawn.id());
  std::vector<UniqueFd> sent;
  if (vmm.ok()) {
    spawned.set_pid(vmm->pid);
    spawned.set_pidfd(0);
    sent.push_back(std::move(vmm->pidfd));
  } else {
    spawned.set_error_code(static_cast<int>(vmm.status().code()));
    spawned.set_error(std::string(vmm.status().message()));
  }
  return Send(frame, std::move(sent));
}

absl::Status Session::HandleOpenPagemap(const v1::OpenPagemap& request) {
  absl::StatusOr<UniqueFd> opened = host_->OpenPagemapOf(this, request.id());
  v1::Frame frame;
  v1::Pagemap& pagemap = *frame.mutable_pagemap();
  pagemap.set_request(request.request());
  std::vector<UniqueFd> sent;
  if (opened.ok()) {
    pagemap.set_fd(0);
    sent.push_back(*std::move(opened));
  } else {
    pagemap.set_error_code(static_cast<int>(opened.status().code()));
    pagemap.set_error(std::string(opened.status().message()));
  }
  return Send(frame, std::move(sent));
}

absl::Status Session::HandleList(const v1::List& request) {
  v1::Frame frame;
  v1::Listed& listed = *frame.mutable_listed();
  listed.set_request(request.request());
  for (const uint64_t id : host_->List(this)) listed.add_ids(id);
  return Send(frame);
}

void Session::SendExited(const v1::Exited& exited) {
  v1::Frame frame;
  *frame.mutable_exited() = exited;
  const absl::Status sent = Send(frame);
  if (sent.ok() || ended_) return;
  ended_ = true;
  host_->Ended(this, sent);
}

absl::Status Session::Send(const v1::Frame& frame, std::vector<UniqueFd> fds) {
  RETURN_IF_ERROR(socket_.Send(frame.SerializeAsString(), std::move(fds)));
  return WatchForWriting();
}

absl::Status Session::WatchForWriting() {
  if (socket_.wants_write() == watches_writing_) return absl::OkStatus();
  watches_writing_ = socket_.wants_write();
  return loop_->Modify(socket_.fd(), watches_writing_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

}  // namespace hearth::launcher
