// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/vsock/guest_fake.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>

namespace hearth::vmm {
namespace {

constexpr uint16_t kReceiveQueue = 0;
constexpr uint16_t kTransmitQueue = 1;
constexpr uint64_t kTransmitArea = MmioDriverFake::kBuffers.value();
constexpr uint64_t kReceiveArea = kTransmitArea + (1 << 20);
constexpr uint64_t kSlotBytes = 8192;

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

VsockGuestFake::VsockGuestFake(size_t receive_buffers)
    : loop_(*EventLoop::Create()), slot_of_head_(kVsockDataQueueSize) {
  Vsock::Options options;
  options.guest_cid = kFakeCid;
  options.host_ports = {kFakeHostPort, kFakeHostPort + 1};
  options.accept = [this](uint32_t host_port, uint32_t guest_port, UniqueFd socket) {
    if (refuse_accepts) return absl::UnavailableError("nobody listens");
    SetNonBlocking(socket.get());
    accepted_.push_back({host_port, guest_port, std::move(socket)});
    return absl::OkStatus();
  };
  options.loop = loop_.get();
  options.device_lock = &lock_;
  options.now_ns = [] { return fake_now_ns; };
  device_ = *Vsock::Create(std::move(options));
  driver_ = std::make_unique<MmioDriverFake>(device_.get());
  driver_->Start(true);
  for (size_t i = 0; i < receive_buffers; ++i) PostReceiveBuffer(i);
}

VsockHeader VsockGuestFake::Header(VsockOp op, uint32_t guest_port, uint32_t host_port) {
  VsockHeader header;
  header.src_cid = kFakeCid;
  header.dst_cid = kVsockHostCid;
  header.src_port = guest_port;
  header.dst_port = host_port;
  header.type = kVsockTypeStream;
  header.op = static_cast<uint16_t>(op);
  header.buf_alloc = 1 << 30;
  return header;
}

bool VsockGuestFake::Send(VsockHeader header, std::string_view data) {
  if (!data.empty()) header.len = static_cast<uint32_t>(data.size());
  driver_->memory().WriteValue(GuestAddress(kTransmitArea), header);
  const GuestAddress at(kTransmitArea + sizeof(header));
  driver_->memory().Write(at, {reinterpret_cast<const uint8_t*>(data.data()), data.size()});
  std::vector<VirtqueueFake::Buffer> buffers = {
      {GuestAddress(kTransmitArea), sizeof(header), false}};
  if (!data.empty()) buffers.push_back({at, static_cast<uint32_t>(data.size()), false});
  if (!driver_->queue(kTransmitQueue).Add(buffers)) return false;
  driver_->Notify(kTransmitQueue);
  // At most a queue of them: where tests let the device overwrite its rings, the index may jump.
  for (int i = 0; i < kVsockDataQueueSize && driver_->queue(kTransmitQueue).TakeUsed(); ++i) {
  }
  return true;
}

bool VsockGuestFake::PostReceiveBuffer(uint64_t slot) {
  const std::array<VirtqueueFake::Buffer, 1> buffers = {
      {{GuestAddress(kReceiveArea + slot * kSlotBytes), kReceiveBufferBytes, true}}};
  const auto head = driver_->queue(kReceiveQueue).Add(buffers);
  if (!head) return false;
  slot_of_head_[*head] = slot;
  return true;
}

void VsockGuestFake::RunLoop() {
  // A round that is not due returns at once; two empty ones in a row mean that all is quiet.
  for (int i = 0; i < 4; ++i) {
    if (!loop_->RunOnce(0).ok()) abort();
    driver_->RunKicks();
  }
}

std::optional<FakePacket> VsockGuestFake::Receive(bool post_again) {
  auto used = driver_->queue(kReceiveQueue).TakeUsed();
  if (!used) {
    driver_->Notify(kReceiveQueue);
    RunLoop();
    used = driver_->queue(kReceiveQueue).TakeUsed();
    if (!used) return std::nullopt;
  }
  if (used->head >= slot_of_head_.size() || used->length < sizeof(VsockHeader) ||
      used->length > kReceiveBufferBytes) {
    return std::nullopt;
  }
  const uint64_t slot = slot_of_head_[used->head];
  const GuestAddress at(kReceiveArea + slot * kSlotBytes);
  FakePacket packet;
  packet.header = *driver_->memory().ReadValue<VsockHeader>(at);
  packet.data.resize(used->length - sizeof(VsockHeader));
  driver_->memory().Read(GuestAddress(at.value() + sizeof(VsockHeader)), packet.data);
  if (post_again) PostReceiveBuffer(slot);
  return packet;
}

VsockGuestFake::Accepted VsockGuestFake::Connect(uint32_t guest_port) {
  Send(Header(VsockOp::kRequest, guest_port));
  const auto response = Receive();
  if (!response || response->op() != VsockOp::kResponse || accepted_.empty()) abort();
  Accepted accepted = std::move(accepted_.front());
  accepted_.pop_front();
  return accepted;
}

VsockGuestFake::Accepted VsockGuestFake::AcceptFromHost() {
  auto pair = MakeSocketPair();
  {
    absl::MutexLock lock(&lock_);
    if (!device_->ConnectVsock(5000, std::move(pair[1])).ok()) abort();
  }
  const auto request = Receive();
  if (!request || request->op() != VsockOp::kRequest) abort();
  const uint32_t host_port = request->header.src_port.get();
  Send(Header(VsockOp::kResponse, 5000, host_port));
  return {host_port, 5000, std::move(pair[0])};
}

std::array<UniqueFd, 2> MakeSocketPair() {
  std::array<int, 2> fds;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) abort();
  SetNonBlocking(fds[0]);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::string ReadAll(int socket, bool* ended) {
  std::string text;
  std::array<char, 65536> buffer;
  ssize_t got;
  while ((got = recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  // A socket closed with something unread in it resets its peer.
  if (ended != nullptr) *ended = got == 0 || errno == ECONNRESET;
  return text;
}

}  // namespace hearth::vmm
