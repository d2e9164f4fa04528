// SPDX-License-Identifier: Apache-2.0
#include "agent/host_connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr size_t kReadBytes = 128 * 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<HostConnection>> HostConnection::Create(
    EventLoop* loop, HostConnectionOptions options, HostConnectionOwner* owner) {
  std::unique_ptr<HostConnection> connection(new HostConnection(loop, std::move(options), owner));
  connection->mux_ = connection->NewMux();
  RETURN_IF_ERROR(connection->Watch());
  return connection;
}

HostConnection::~HostConnection() {
  loop_->Cancel(retry_);
  if (socket_) loop_->Remove(socket_.get());
}

std::unique_ptr<wire::Mux> HostConnection::NewMux() {
  return std::make_unique<wire::Mux>(
      wire::MuxOptions{
          .side = wire::MuxSide::kAgent, .build = HEARTH_VERSION, .boot_id = owner_->BootId()},
      owner_);
}

absl::Status HostConnection::Watch() {
  if (fcntl(socket_.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl");
  return loop_->Add(socket_.get(), EPOLLIN, [this](uint32_t events) { OnEvents(events); });
}

void HostConnection::OnEvents(uint32_t events) {
  // The reset of the transport that comes with a restore: there is nothing to read.
  if ((events & (EPOLLHUP | EPOLLERR)) != 0 && owner_->ExpectsBreak()) {
    return Broken(absl::UnavailableError("the connection was reset"));
  }
  if ((events & ~uint32_t{EPOLLOUT}) == 0) return;  // Flush() writes.
  std::array<char, kReadBytes> buffer;
  const ssize_t got = read(socket_.get(), buffer.data(), buffer.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got < 0) return Broken(ErrnoStatus("read from the host"));
  if (got == 0) return Broken(absl::UnavailableError("the host closed the connection"));
  const absl::string_view bytes(buffer.data(), static_cast<size_t>(got));
  status_ = mux_->Receive(bytes);
  if (!absl::IsAborted(status_) || !owner_->ExpectsBreak()) return;
  // A serial port does not tell that it was restored: the new host begins anew on it. It has said
  // nothing before, and its Hello is short enough to arrive as one piece.
  mux_ = NewMux();
  owner_->OnNewMux(mux_.get());
  status_ = mux_->Receive(bytes);
}

void HostConnection::Flush() {
  if (!socket_ || !status_.ok()) return;
  while (!mux_->output().empty()) {
    const absl::string_view output = mux_->output();
    const ssize_t count = write(socket_.get(), output.data(), output.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) return Broken(ErrnoStatus("write to the host"));
    mux_->ConsumeOutput(static_cast<size_t>(count));
    owner_->OnWritten();
  }
  loop_->Modify(socket_.get(),
                mux_->output().empty() ? uint32_t{EPOLLIN} : uint32_t{EPOLLIN | EPOLLOUT});
}

void HostConnection::Broken(const absl::Status& why) {
  if (!owner_->ExpectsBreak()) {
    status_ = why;
    return;
  }
  // Before the next is opened: a virtio-serial port can be open once only.
  loop_->Remove(socket_.get());
  socket_.reset();
  if (redials_ == 0) return Dial();
  DialLater();
}

void HostConnection::Dial() {
  ++redials_;
  const absl::Status status = DialOnce();
  if (status.ok()) return;
  say_(absl::StrCat("dial ", redials_, " of ", kMaxRedials, ": ", status.message()));
  DialLater();
}

void HostConnection::DialLater() {
  if (redials_ == kMaxRedials) {
    status_ = absl::UnavailableError(
        absl::StrCat("no connection to the host after ", kMaxRedials, " dials"));
    return;
  }
  retry_ = loop_->After(kRedialDelayNs << (redials_ - 1), [this] {
    retry_ = 0;
    Dial();
  });
}

// Six system calls until Hello is written: the first bytes that a restored guest sends. While the
// socket blocks, writing to a virtio-serial port waits for the host to open its end.
absl::Status HostConnection::DialOnce() {
  ASSIGN_OR_RETURN(UniqueFd socket, dial_());
  std::unique_ptr<wire::Mux> mux = NewMux();
  while (!mux->output().empty()) {
    const ssize_t count = write(socket.get(), mux->output().data(), mux->output().size());
    if (count < 0 && errno != EINTR) return ErrnoStatus("write to the host");
    if (count > 0) mux->ConsumeOutput(static_cast<size_t>(count));
  }
  socket_ = std::move(socket);
  if (absl::Status status = Watch(); !status.ok()) {
    socket_.reset();
    return status;
  }
  mux_ = std::move(mux);
  owner_->OnNewMux(mux_.get());
  return absl::OkStatus();
}

}  // namespace hearth::agent
