// SPDX-License-Identifier: Apache-2.0
#include "wire/fd_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hearth::wire {
namespace {

int64_t NowMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

int64_t DeadlineMs(int timeout_ms) { return timeout_ms < 0 ? -1 : NowMs() + timeout_ms; }

uint32_t LoadLe32(const std::array<uint8_t, kFrameHeaderBytes>& bytes) {
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 |
         uint32_t{bytes[3]} << 24;
}

}  // namespace

absl::Status FdSocket::TakeFds(msghdr& message) {
  // A frame's descriptors come with its first byte; the reads below never cross a frame's end, so
  // whatever arrives belongs to the frame that is being read.
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
      incoming_.fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0 || incoming_.fds.size() > kMaxFdsPerFrame) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame carries more than ", kMaxFdsPerFrame, " descriptors"));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> FdSocket::ReceiveSome(uint8_t* data, size_t size) {
  const bool at_first_byte = header_received_ == 0;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerFrame * sizeof(int))];
  iovec part{data, size};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t received;
  do {
    received = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return size_t{0};
    if (errno == ECONNRESET) return absl::UnavailableError("the peer reset the connection");
    return ErrnoStatus("recvmsg");
  }
  const size_t fds_before = incoming_.fds.size();
  RETURN_IF_ERROR(TakeFds(message));
  if (!at_first_byte && incoming_.fds.size() != fds_before) {
    return absl::InvalidArgumentError("descriptors arrived inside a frame");
  }
  if (received == 0) {
    if (at_first_byte) return absl::UnavailableError("the peer closed the connection");
    return absl::DataLossError("the peer closed the connection inside a frame");
  }
  return static_cast<size_t>(received);
}

absl::StatusOr<std::optional<FdFrame>> FdSocket::TryReceive() {
  while (header_received_ < header_.size()) {
    ASSIGN_OR_RETURN(const size_t count, ReceiveSome(header_.data() + header_received_,
                                                     header_.size() - header_received_));
    if (count == 0) return std::optional<FdFrame>();
    header_received_ += count;
    if (header_received_ < header_.size()) continue;
    const uint32_t size = LoadLe32(header_);
    if (size > kMaxVmmFrameBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a frame of ", size, " bytes is over the limit of ", kMaxVmmFrameBytes));
    }
    incoming_.payload.resize(size);
    payload_received_ = 0;
  }
  while (payload_received_ < incoming_.payload.size()) {
    ASSIGN_OR_RETURN(
        const size_t count,
        ReceiveSome(reinterpret_cast<uint8_t*>(incoming_.payload.data()) + payload_received_,
                    incoming_.payload.size() - payload_received_));
    if (count == 0) return std::optional<FdFrame>();
    payload_received_ += count;
  }
  header_received_ = 0;
  return std::optional<FdFrame>(std::exchange(incoming_, FdFrame()));
}

absl::Status FdSocket::Send(std::string payload, std::vector<UniqueFd> fds) {
  if (payload.size() > kMaxVmmFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a frame of ", payload.size(), " bytes is over the limit of ", kMaxVmmFrameBytes));
  }
  if (fds.size() > kMaxFdsPerFrame) {
    return absl::InvalidArgumentError(absl::StrCat(
        fds.size(), " descriptors are over the limit of ", kMaxFdsPerFrame, " for a frame"));
  }
  if (queue_.size() >= kMaxQueuedFrames) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the peer has not read ", kMaxQueuedFrames, " frames"));
  }
  const uint32_t size = static_cast<uint32_t>(payload.size());
  const char header[kFrameHeaderBytes] = {static_cast<char>(size), static_cast<char>(size >> 8),
                                          static_cast<char>(size >> 16),
                                          static_cast<char>(size >> 24)};
  payload.insert(0, header, sizeof(header));
  queue_.push_back({std::move(payload), 0, std::move(fds)});
  return Flush();
}

absl::Status FdSocket::Flush() {
  while (!queue_.empty()) {
    Outgoing& frame = queue_.front();
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerFrame * sizeof(int))] = {};
    iovec part{frame.bytes.data() + frame.sent, frame.bytes.size() - frame.sent};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!frame.fds.empty()) {
      std::array<int, kMaxFdsPerFrame> raw{};
      std::transform(frame.fds.begin(), frame.fds.end(), raw.begin(),
                     [](const UniqueFd& fd) { return fd.get(); });
      const size_t bytes = frame.fds.size() * sizeof(int);
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(bytes);
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(bytes);
      std::memcpy(CMSG_DATA(rights), raw.data(), bytes);
    }
    ssize_t sent;
    do {
      sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::OkStatus();
      if (errno == EPIPE || errno == ECONNRESET) {
        return absl::UnavailableError("the peer closed the connection");
      }
      return ErrnoStatus("sendmsg");
    }
    frame.fds.clear();
    frame.sent += static_cast<size_t>(sent);
    if (frame.sent == frame.bytes.size()) queue_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status FdSocket::WaitFor(short events, int64_t deadline_ms) {
  for (;;) {
    int wait_ms = -1;
    if (deadline_ms >= 0) {
      wait_ms = static_cast<int>(std::clamp<int64_t>(deadline_ms - NowMs(), 0, INT32_MAX));
    }
    pollfd entry{socket_.get(), events, 0};
    const int ready = poll(&entry, 1, wait_ms);
    if (ready > 0) return absl::OkStatus();
    if (ready == 0) return absl::DeadlineExceededError("the peer did not answer in time");
    if (errno != EINTR) return ErrnoStatus("poll");
  }
}

absl::StatusOr<FdFrame> FdSocket::BlockingReceive(int timeout_ms) {
  const int64_t deadline_ms = DeadlineMs(timeout_ms);
  for (;;) {
    ASSIGN_OR_RETURN(std::optional<FdFrame> frame, TryReceive());
    if (frame.has_value()) return *std::move(frame);
    RETURN_IF_ERROR(WaitFor(POLLIN, deadline_ms));
  }
}

absl::Status FdSocket::BlockingSend(std::string payload, std::vector<UniqueFd> fds,
                                    int timeout_ms) {
  const int64_t deadline_ms = DeadlineMs(timeout_ms);
  RETURN_IF_ERROR(Send(std::move(payload), std::move(fds)));
  while (wants_write()) {
    RETURN_IF_ERROR(WaitFor(POLLOUT, deadline_ms));
    RETURN_IF_ERROR(Flush());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSocketPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus("socketpair");
  }
  return std::make_pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

}  // namespace hearth::wire
