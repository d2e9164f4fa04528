// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/vsock/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace hearth::vmm {

bool VsockConnection::MoveTo(VsockState next) {
  bool legal = false;
  switch (next) {
    case VsockState::kConnecting:
      break;
    case VsockState::kEstablished:
      legal = state_ == VsockState::kConnecting;
      break;
    case VsockState::kClosing:
    case VsockState::kDraining:
      legal = state_ == VsockState::kEstablished ||
              (state_ == VsockState::kClosing && next == VsockState::kDraining);
      break;
    case VsockState::kClosed:
      legal = state_ != VsockState::kClosed;
      break;
  }
  if (legal) state_ = next;
  return legal;
}

void VsockConnection::UpdatePeer(const VsockHeader& header) {
  peer_buf_alloc_ = header.buf_alloc.get();
  peer_fwd_cnt_ = header.fwd_cnt.get();
}

uint32_t VsockConnection::PeerCredit() const {
  const uint32_t in_flight = sent_ - peer_fwd_cnt_;  // 5.10.6.3, wrapping.
  return in_flight >= peer_buf_alloc_ ? 0 : peer_buf_alloc_ - in_flight;
}

void VsockConnection::CountForwarded(size_t bytes) {
  forwarded_ += static_cast<uint32_t>(bytes);
  if (forwarded_ - forwarded_told_ >= kVsockBufferBytes / 2) pending |= kPendingCreditUpdate;
}

size_t VsockConnection::SendToSocket(iovec* iov, size_t count) {
  while (true) {
    msghdr message{};
    message.msg_iov = iov;
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EINTR) continue;
    socket_writable = false;
    // EAGAIN waits for EPOLLOUT. Anything else: the host's end reads no more.
    if (errno != EAGAIN && errno != EWOULDBLOCK) host_ended_reading = true;
    return 0;
  }
}

bool VsockConnection::Write(GuestBuffer& data) {
  if (data.size() > kVsockBufferBytes - buffered_) return false;
  while (data.size() != 0 && buffered_ == 0 && socket_writable && !host_ended_reading) {
    const auto iov = data.iov();
    const size_t sent = SendToSocket(iov.data(), iov.size());
    data.Skip(sent);
    CountForwarded(sent);
  }
  if (host_ended_reading) {
    CountForwarded(data.size());
  } else if (data.size() != 0) {
    Buffer(data);
  }
  return true;
}

void VsockConnection::Buffer(GuestBuffer& data) {
  if (buffer_ == nullptr) buffer_.reset(new uint8_t[kVsockBufferBytes]);
  while (data.size() != 0) {
    const size_t tail = (buffer_head_ + buffered_) % kVsockBufferBytes;
    const size_t bytes = std::min<size_t>(data.size(), kVsockBufferBytes - tail);
    data.CopyOut({buffer_.get() + tail, bytes});
    buffered_ += bytes;
  }
}

void VsockConnection::Flush() {
  while (buffered_ != 0 && socket_writable && !host_ended_reading) {
    const size_t first = std::min<size_t>(buffered_, kVsockBufferBytes - buffer_head_);
    std::array<iovec, 2> iov = {iovec{buffer_.get() + buffer_head_, first},
                                iovec{buffer_.get(), buffered_ - first}};
    const size_t sent = SendToSocket(iov.data(), iov.size());
    buffer_head_ = (buffer_head_ + sent) % kVsockBufferBytes;
    buffered_ -= sent;
    CountForwarded(sent);
  }
  if (host_ended_reading) {
    CountForwarded(buffered_);
    buffered_ = 0;
  }
  if (buffered_ == 0) buffer_.reset();
  if (drained() && (guest_shutdown & kVsockShutdownSend)) ShutdownHostReading();
}

void VsockConnection::ShutdownHostReading() {
  if (drained()) shutdown(socket_.get(), SHUT_WR);
}

void VsockConnection::ShutdownHostWriting() { shutdown(socket_.get(), SHUT_RD); }

bool VsockConnection::Readable() const {
  return state_ == VsockState::kEstablished && socket_readable && !host_ended_writing &&
         (guest_shutdown & kVsockShutdownReceive) == 0 && PeerCredit() != 0;
}

VsockConnection::ReadResult VsockConnection::Read(GuestBuffer& into, uint32_t& bytes) {
  into.Truncate(std::min<uint64_t>({into.size(), PeerCredit(), kVsockMaxPacketBytes}));
  const auto iov = into.iov();
  while (true) {
    msghdr message{};
    message.msg_iov = iov.data();
    message.msg_iovlen = iov.size();
    const ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      socket_readable = false;
      return ReadResult::kNothing;
    }
    if (got <= 0) {
      host_ended_writing = true;
      return ReadResult::kEnd;
    }
    bytes = static_cast<uint32_t>(got);
    sent_ += bytes;
    // Less than asked for: the socket is empty and epoll tells of more (epoll(7)), except of an
    // end that it has told of already.
    if (bytes < into.size() && !host_half_closed) socket_readable = false;
    return ReadResult::kData;
  }
}

VsockHeader VsockConnection::MakeHeader(uint64_t guest_cid, VsockOp op, uint32_t flags,
                                        uint32_t len) {
  forwarded_told_ = forwarded_;
  pending &= static_cast<uint8_t>(~kPendingCreditUpdate);
  return {.src_cid = kVsockHostCid,
          .dst_cid = guest_cid,
          .src_port = ports_.host,
          .dst_port = ports_.guest,
          .len = len,
          .type = kVsockTypeStream,
          .op = static_cast<uint16_t>(op),
          .flags = flags,
          .buf_alloc = kVsockBufferBytes,
          .fwd_cnt = forwarded_};
}

}  // namespace hearth::vmm
