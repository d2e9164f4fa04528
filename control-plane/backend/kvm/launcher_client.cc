// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/launcher_client.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "wire/handshake.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' cannot be the launcher's socket: empty or too long"));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return ErrnoStatus("socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  const int error = errno;
  if (error == ENOENT || error == ECONNREFUSED) {
    return absl::UnavailableError(
        absl::StrCat("no hearth-launcher listens on ", path,
                     "; start it (with --backend=libvirt: hearth-libvirt) as root"));
  }
  return Annotate(ErrnoStatus(error, absl::StrCat("connecting to ", path)),
                  "hearth-launcher cannot be reached");
}

}  // namespace

absl::StatusOr<std::shared_ptr<LauncherClient>> LauncherClient::Connect(EventLoop* loop,
                                                                        const std::string& path,
                                                                        const std::string& build,
                                                                        absl::Duration timeout) {
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectTo(path));
  std::shared_ptr<LauncherClient> client(new LauncherClient(loop, std::move(socket)));
  RETURN_IF_ERROR(client->Greet(build, timeout));
  loop->Post([client] {
    absl::MutexLock lock(&client->mutex_);
    if (!client->status_.ok()) return;
    // Edge-triggered, so that no other thread has to change what is watched.
    const absl::Status added =
        client->loop_->Add(client->socket_.fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                           [client](uint32_t events) { client->OnEvents(events); });
    if (!added.ok()) client->Fail(added);
  });
  return client;
}

absl::Status LauncherClient::Greet(const std::string& build, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  launcher::v1::Frame hello;
  hello.mutable_hello()->set_min_version(wire::kLauncherMinVersion);
  hello.mutable_hello()->set_max_version(wire::kLauncherMaxVersion);
  hello.mutable_hello()->set_build(build);
  RETURN_IF_ERROR(socket_.Send(hello.SerializeAsString()));
  absl::StatusOr<wire::FdFrame> received =
      socket_.BlockingReceive(static_cast<int>(absl::ToInt64Milliseconds(timeout)));
  if (!received.ok()) {
    return absl::UnavailableError(absl::StrCat(
        "hearth-launcher did not say Hello (", received.status().message(),
        "); if it closed the connection, it was started for another user: see --allow-uid, we are ",
        geteuid()));
  }
  launcher::v1::Frame frame;
  if (!frame.ParseFromString(received->payload) || !frame.has_hello()) {
    return absl::UnavailableError("what listens on the launcher's socket is no hearth-launcher");
  }
  ASSIGN_OR_RETURN(
      version_, wire::NegotiateVersion("hearth.launcher.v1", "hearth-launcher",
                                       {wire::kLauncherMinVersion, wire::kLauncherMaxVersion},
                                       {frame.hello().min_version(), frame.hello().max_version()}));
  vsock_ = frame.hello().vsock();
  return absl::OkStatus();
}

void LauncherClient::OnEvents(uint32_t events) {
  std::vector<std::function<void()>> calls;
  {
    absl::MutexLock lock(&mutex_);
    absl::Status status = status_;
    if (status.ok() && (events & EPOLLOUT) != 0) status = socket_.Flush();
    while (status.ok()) {
      absl::StatusOr<std::optional<wire::FdFrame>> frame = socket_.TryReceive();
      status = frame.status();
      if (!status.ok() || !frame->has_value()) break;
      status = Handle(**std::move(frame), &calls);
    }
    if (!status.ok()) Fail(Annotate(status, "the launcher was lost"));
    if (!status_.ok()) {
      for (auto& [id, on_exit] : std::exchange(running_, {})) {
        calls.push_back([on_exit = std::move(on_exit)] { on_exit(nullptr); });
      }
    }
  }
  for (const auto& call : calls) call();
}

absl::Status LauncherClient::Handle(wire::FdFrame received,
                                    std::vector<std::function<void()>>* calls) {
  launcher::v1::Frame frame;
  if (!frame.ParseFromString(received.payload)) {
    return absl::InvalidArgumentError("it sent a frame that is none of hearth.launcher.v1");
  }
  if (frame.has_exited()) {
    const auto it = running_.find(frame.exited().id());
    if (it == running_.end()) return absl::OkStatus();  // Given up before it was answered.
    calls->push_back(
        [on_exit = std::move(it->second), exited = frame.exited()] { on_exit(&exited); });
    running_.erase(it);
    return absl::OkStatus();
  }
  if (frame.has_pagemap()) return HandlePagemap(frame.pagemap(), std::move(received.fds));
  if (frame.has_listed()) {
    const auto it = listing_.find(frame.listed().request());
    if (it == listing_.end()) return absl::OkStatus();  // Nobody waits for it any more.
    it->second.answered = true;
    it->second.ids.insert(frame.listed().ids().begin(), frame.listed().ids().end());
    changed_.SignalAll();
    return absl::OkStatus();
  }
  if (!frame.has_spawned()) return absl::InvalidArgumentError("it sent an unknown frame");
  const launcher::v1::Spawned& spawned = frame.spawned();
  const auto it = spawning_.find(spawned.id());
  if (it == spawning_.end()) return absl::OkStatus();
  Pending& pending = it->second;
  pending.answered = true;
  if (spawned.error_code() != 0) {
    pending.error = absl::Status(static_cast<absl::StatusCode>(spawned.error_code()),
                                 absl::StrCat("hearth-launcher: ", spawned.error()));
  } else if (spawned.pidfd() >= received.fds.size()) {
    return absl::InvalidArgumentError("it sent a Spawned without a pidfd");
  } else {
    pending.process.pid = spawned.pid();
    pending.process.pidfd = std::move(received.fds[spawned.pidfd()]);
    running_.emplace(spawned.id(), std::move(pending.on_exit));
  }
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::StatusOr<LauncherClient::Process> LauncherClient::Spawn(uint32_t memory_mib, UniqueFd control,
                                                              ExitCallback on_exit, uint64_t* id,
                                                              absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(status_);
  *id = next_id_++;
  launcher::v1::Frame frame;
  frame.mutable_spawn()->set_id(*id);
  frame.mutable_spawn()->set_control_fd(0);
  frame.mutable_spawn()->set_memory_mib(memory_mib);
  Pending& pending = spawning_[*id];
  pending.on_exit = std::move(on_exit);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(control));
  absl::Status status = Send(frame, std::move(fds));
  while (status.ok() && status_.ok() && !pending.answered) {
    if (changed_.WaitWithDeadline(&mutex_, deadline) && !pending.answered && status_.ok()) {
      // Its answer could come later and make a VMM that nobody knows: the session ends instead.
      Fail(absl::DeadlineExceededError("hearth-launcher did not answer in time"));
    }
  }
  Pending answered = std::move(pending);
  spawning_.erase(*id);
  RETURN_IF_ERROR(status);
  if (!answered.answered) return status_;
  RETURN_IF_ERROR(answered.error);
  return std::move(answered.process);
}

void LauncherClient::Kill(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return;
  launcher::v1::Frame frame;
  frame.mutable_kill()->set_id(id);
  Send(frame).IgnoreError();
}

void LauncherClient::SetMemory(uint64_t id, uint32_t memory_mib) {
  absl::MutexLock lock(&mutex_);
  if (!status_.ok()) return;
  launcher::v1::Frame frame;
  frame.mutable_set_memory()->set_id(id);
  frame.mutable_set_memory()->set_memory_mib(memory_mib);
  Send(frame).IgnoreError();
}

absl::Status LauncherClient::HandlePagemap(const launcher::v1::Pagemap& pagemap,
                                           std::vector<UniqueFd> fds) {
  const auto it = opening_.find(pagemap.request());
  if (it == opening_.end()) return absl::OkStatus();  // Nobody waits for it any more.
  it->second.answered = true;
  if (pagemap.error_code() != 0) {
    it->second.error = absl::Status(static_cast<absl::StatusCode>(pagemap.error_code()),
                                    absl::StrCat("hearth-launcher: ", pagemap.error()));
  } else if (pagemap.fd() >= fds.size()) {
    return absl::InvalidArgumentError("it sent a Pagemap without its descriptor");
  } else {
    it->second.pagemap = std::move(fds[pagemap.fd()]);
  }
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> LauncherClient::OpenPagemap(uint64_t id, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(status_);
  const uint64_t request = next_id_++;
  launcher::v1::Frame frame;
  frame.mutable_open_pagemap()->set_id(id);
  frame.mutable_open_pagemap()->set_request(request);
  Opening& opening = opening_[request];
  const absl::Status sent = Send(frame);
  bool late = false;
  while (sent.ok() && status_.ok() && !opening.answered && !late) {
    late = changed_.WaitWithDeadline(&mutex_, deadline);
  }
  Opening answered = std::move(opening_[request]);
  opening_.erase(request);
  RETURN_IF_ERROR(sent);
  if (!answered.answered) {
    return status_.ok() ? absl::DeadlineExceededError("hearth-launcher did not answer in time")
                        : status_;
  }
  RETURN_IF_ERROR(answered.error);
  return std::move(answered.pagemap);
}

absl::StatusOr<std::set<uint64_t>> LauncherClient::List(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(status_);
  if (version_ < wire::kLauncherListVersion) {
    return absl::UnimplementedError(
        "this hearth-launcher is older than hearthd and cannot tell what runs; install it anew");
  }
  const uint64_t request = next_id_++;
  launcher::v1::Frame frame;
  frame.mutable_list()->set_request(request);
  Listing& listing = listing_[request];
  const absl::Status sent = Send(frame);
  bool late = false;
  while (sent.ok() && status_.ok() && !listing.answered && !late) {
    late = changed_.WaitWithDeadline(&mutex_, deadline);
  }
  const Listing answered = std::move(listing);
  listing_.erase(request);
  RETURN_IF_ERROR(sent);
  if (answered.answered) return answered.ids;
  return status_.ok() ? absl::DeadlineExceededError("hearth-launcher did not answer in time")
                      : status_;
}

absl::Status LauncherClient::Send(const launcher::v1::Frame& frame, std::vector<UniqueFd> fds) {
  absl::Status sent = socket_.Send(frame.SerializeAsString(), std::move(fds));
  if (!sent.ok()) Fail(Annotate(sent, "the launcher was lost"));
  return sent;
}

void LauncherClient::Fail(const absl::Status& why) {
  if (!status_.ok()) return;
  status_ = absl::UnavailableError(why.message());
  changed_.SignalAll();
  shutdown(socket_.fd(), SHUT_RDWR);
  // The callbacks are the loop's to call.
  loop_->Post([self = shared_from_this()] {
    self->OnEvents(0);
    absl::MutexLock lock(&self->mutex_);
    self->loop_->Remove(self->socket_.fd());
  });
}

void LauncherClient::Close(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  Fail(why);
}

absl::Status LauncherClient::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

}  // namespace hearth::control
