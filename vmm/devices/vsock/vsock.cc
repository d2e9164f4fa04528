// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/vsock/vsock.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace hearth::vmm {
namespace {

constexpr std::array<uint16_t, 3> kQueueSizes = {kVsockDataQueueSize, kVsockDataQueueSize,
                                                 kVsockEventQueueSize};
constexpr uint32_t kSocketEvents = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

}  // namespace

absl::StatusOr<std::unique_ptr<Vsock>> Vsock::Create(Options options) {
  if (options.guest_cid <= kVsockHostCid || options.guest_cid == UINT32_MAX) {
    return absl::InvalidArgumentError("vsock: the guest's CID must be 3 or more");
  }
  if (options.host_ports.size() > kVsockMaxPorts) {
    return absl::InvalidArgumentError(
        absl::StrCat("vsock: more than ", kVsockMaxPorts, " host ports"));
  }
  for (const uint32_t port : options.host_ports) {
    if (port >= kVsockFirstHostPort) return absl::InvalidArgumentError("vsock: host port too high");
  }
  EventLoop* loop = options.loop;
  std::unique_ptr<Vsock> vsock(new Vsock(std::move(options)));
  Vsock* self = vsock.get();
  ASSIGN_OR_RETURN(vsock->sweep_timer_, Timer::Create(loop, [self] {
                     MutexLock lock(self->options_.device_lock);
                     self->Sweep();
                   }));
  return vsock;
}

Vsock::Vsock(Options options)
    : options_(std::move(options)), next_host_port_(kVsockFirstHostPort) {}

Vsock::~Vsock() { doomed_->connections.clear(); }

uint64_t Vsock::features() const { return 0; }  // Stream sockets are there without any.

std::span<const uint16_t> Vsock::queue_max_sizes() const { return kQueueSizes; }

void Vsock::ReadConfig(uint64_t offset, std::span<uint8_t> data) const {
  const Le64 guest_cid(options_.guest_cid);
  CopyConfig({reinterpret_cast<const uint8_t*>(&guest_cid), sizeof(guest_cid)}, offset, data);
}

void Vsock::Activate(VirtioContext* context) { context_ = context; }

void Vsock::Reset() {
  DropAll();
  reset_ = VsockReset::kNone;
  stale_packets_ = 0;
  context_ = nullptr;
}

void Vsock::ProcessQueue(uint16_t index) {
  if (reset_ != VsockReset::kNone) {
    AdvanceReset();
    return;
  }
  // Nothing else is taken from the event queue.
  if (index == kVsockTransmitQueue) ProcessTransmit();
  if (index != kVsockEventQueue) PumpReceive();
}

absl::Status Vsock::ConnectVsock(uint32_t port, UniqueFd socket) {
  int type = 0;
  socklen_t length = sizeof(type);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    return ErrnoStatus("vsock: the descriptor to connect is no socket");
  }
  if (type != SOCK_STREAM) {
    return absl::InvalidArgumentError("vsock: the socket to connect is no stream socket");
  }
  VsockPorts ports{.host = next_host_port_, .guest = port};
  while (connections_.contains(ports.Key())) ++ports.host;
  next_host_port_ = std::max(ports.host + 1, kVsockFirstHostPort);  // Wraps to the first.
  ASSIGN_OR_RETURN(VsockConnection * connection,
                   AddConnection(ports, VsockState::kConnecting, std::move(socket)));
  connection->pending = kPendingRequest;
  MarkReady(*connection);
  PumpReceive();
  return absl::OkStatus();
}

absl::StatusOr<VsockConnection*> Vsock::AddConnection(VsockPorts ports, VsockState state,
                                                      UniqueFd socket) {
  if (connections_.size() >= kVsockMaxConnections) {
    return absl::ResourceExhaustedError(
        absl::StrCat("vsock: ", kVsockMaxConnections, " connections are open"));
  }
  const int fd = socket.get();
  auto connection =
      std::make_unique<VsockConnection>(ports, state, std::move(socket), options_.loop);
  VsockConnection* raw = connection.get();
  RETURN_IF_ERROR(options_.loop->Add(fd, kSocketEvents, [this, raw](uint32_t events) {
    MutexLock lock(options_.device_lock);
    // Doomed connections stay watched until the loop's thread frees them.
    if (raw->state() != VsockState::kClosed) OnSocket(*raw, events);
  }));
  connections_.emplace(ports.Key(), std::move(connection));
  return raw;
}

void Vsock::OnSocket(VsockConnection& connection, uint32_t events) {
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection.socket_readable = true;
  if (events & (EPOLLRDHUP | EPOLLHUP)) connection.host_half_closed = true;
  if (events & EPOLLHUP) connection.host_hung_up = true;
  if (connection.state() == VsockState::kConnecting) {
    if (connection.host_hung_up) {  // Nobody is left who wants this connection.
      connection.request_sent ? RemoveWithReset(connection) : Remove(connection);
      PumpReceive();
    }
    return;
  }
  if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
    connection.socket_writable = true;
    connection.Flush();
  }
  if (connection.host_hung_up && connection.deadline_ns == 0) {
    SetDeadline(connection, kVsockLingerTimeoutNs);
  }
  const bool draining = connection.state() == VsockState::kDraining ||
                        connection.guest_shutdown == kVsockShutdownBoth;
  if (draining) {
    FinishIfDrained(connection);
  } else {
    UpdateShutdown(connection);
    MarkReady(connection);
  }
  PumpReceive();
}

void Vsock::UpdateShutdown(VsockConnection& connection) {
  if (connection.state() != VsockState::kEstablished) return;
  // What the host wrote can go nowhere when the guest takes no more.
  if (connection.host_hung_up && (connection.guest_shutdown & kVsockShutdownReceive)) {
    connection.host_ended_writing = true;
  }
  uint32_t flags = connection.shutdown_flags;
  if (connection.host_ended_writing) flags |= kVsockShutdownSend;
  if (connection.host_ended_reading) flags |= kVsockShutdownReceive;
  if (connection.host_ended_writing && connection.host_hung_up) flags |= kVsockShutdownReceive;
  if (flags == connection.shutdown_flags) return;
  connection.shutdown_flags = flags;
  connection.pending |= kPendingShutdown;
}

void Vsock::FinishIfDrained(VsockConnection& connection) {
  if (!connection.drained()) return;
  // 5.10.6.5: the end of both directions is answered with RST, but an RST is not.
  if (connection.state() == VsockState::kDraining) {
    Remove(connection);
  } else {
    RemoveWithReset(connection);
  }
}

void Vsock::Remove(VsockConnection& connection) {
  Unready(connection);
  connection.MoveTo(VsockState::kClosed);
  connections_.erase(connection.ports().Key());
}

void Vsock::RemoveWithReset(VsockConnection& connection) {
  replies_.push_back(connection.ports());
  Remove(connection);
}

void Vsock::SetDeadline(VsockConnection& connection, uint64_t timeout_ns) {
  connection.deadline_ns = options_.now_ns() + timeout_ns;
  if (sweep_armed_) return;
  sweep_armed_ = true;
  sweep_timer_->Arm(kVsockSweepIntervalNs);
}

void Vsock::Sweep() {
  sweep_armed_ = false;
  const uint64_t now_ns = options_.now_ns();
  std::vector<VsockConnection*> expired;
  bool more = false;
  for (const auto& [key, connection] : connections_) {
    if (connection->deadline_ns == 0) continue;
    if (connection->deadline_ns <= now_ns) {
      expired.push_back(connection.get());
    } else {
      more = true;
    }
  }
  for (VsockConnection* connection : expired) RemoveWithReset(*connection);
  if (more) {
    sweep_armed_ = true;
    sweep_timer_->Arm(kVsockSweepIntervalNs);
  }
  PumpReceive();
}

void Vsock::DropAll() {
  ready_first_ = nullptr;
  ready_last_ = nullptr;
  replies_.clear();
  transmit_waits_ = false;
  if (connections_.empty()) return;
  for (auto& [key, connection] : connections_) {
    connection->MoveTo(VsockState::kClosed);
    doomed_->connections.push_back(std::move(connection));
  }
  connections_.clear();
  // This may be a vCPU's thread; only the loop's may unwatch and close. The device may be gone by
  // then, with the list emptied.
  options_.loop->Post([doomed = doomed_, lock = options_.device_lock] {
    MutexLock hold(lock);
    doomed->connections.clear();
  });
}

void Vsock::Fail(std::string_view reason) {
  context_->FailDevice(reason);
  DropAll();
}

}  // namespace hearth::vmm
