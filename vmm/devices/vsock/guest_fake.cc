// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/vsock/guest_fake.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>

namespace hearth::vmm {
namespace {

constexpr uint64_t kTransmitArea = MmioDriverFake::kBuffers.value();
constexpr uint64_t kReceiveArea = kTransmitArea + (1 << 20);
constexpr uint64_t kSlotBytes = 8192;
constexpr uint64_t kQueuedArea = kTransmitArea + 0xf0000;  // Behind the longest packet.
constexpr uint64_t kEventArea = kTransmitArea + 0xff000;

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

void VsockGuestFake::CreateDevice(uint32_t cid, std::vector<uint32_t> host_ports) {
  Vsock::Options options;
  options.guest_cid = cid;
  options.host_ports = std::move(host_ports);
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
}

VsockGuestFake::VsockGuestFake(const VsockGuestFake& saved, uint32_t cid,
                               std::vector<uint32_t> host_ports)
    : loop_(*EventLoop::Create()), slot_of_head_(saved.slot_of_head_) {
  CreateDevice(cid, std::move(host_ports));
  driver_ = std::make_unique<MmioDriverFake>(device_.get(), *saved.driver_);
}

VsockGuestFake::VsockGuestFake(size_t receive_buffers)
    : loop_(*EventLoop::Create()), slot_of_head_(kVsockDataQueueSize) {
  CreateDevice(kFakeCid, {kFakeHostPort, kFakeHostPort + 1});
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
  if (!driver_->queue(kVsockTransmitQueue).Add(buffers)) return false;
  driver_->Notify(kVsockTransmitQueue);
  // At most a queue of them: where tests let the device overwrite its rings, the index may jump.
  for (int i = 0; i < kVsockDataQueueSize && driver_->queue(kVsockTransmitQueue).TakeUsed(); ++i) {
  }
  return true;
}

void VsockGuestFake::Queue(const VsockHeader& header, uint64_t slot) {
  const GuestAddress at(kQueuedArea + slot * 64);
  driver_->memory().WriteValue(at, header);
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{at, sizeof(header), false}}};
  if (slot >= kMaxQueued || !driver_->queue(kVsockTransmitQueue).Add(buffers)) abort();
}

void VsockGuestFake::PostEventBuffer(uint32_t bytes) {
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{GuestAddress(kEventArea), bytes, true}}};
  if (!driver_->queue(kVsockEventQueue).Add(buffers)) abort();
}

std::optional<uint32_t> VsockGuestFake::TakeEvent() {
  const auto used = driver_->queue(kVsockEventQueue).TakeUsed();
  if (!used || used->length != sizeof(VsockEvent)) return std::nullopt;
  return driver_->memory().ReadValue<VsockEvent>(GuestAddress(kEventArea))->id.get();
}

bool VsockGuestFake::PostReceiveBuffer(uint64_t slot) {
  const std::array<VirtqueueFake::Buffer, 1> buffers = {
      {{GuestAddress(kReceiveArea + slot * kSlotBytes), kReceiveBufferBytes, true}}};
  const auto head = driver_->queue(kVsockReceiveQueue).Add(buffers);
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
  auto used = driver_->queue(kVsockReceiveQueue).TakeUsed();
  if (!used) {
    driver_->Notify(kVsockReceiveQueue);
    RunLoop();
    used = driver_->queue(kVsockReceiveQueue).TakeUsed();
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
    MutexLock lock(&lock_);
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
