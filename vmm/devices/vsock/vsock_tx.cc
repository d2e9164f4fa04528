// SPDX-License-Identifier: Apache-2.0
// The vsock device's transmit queue: packets from the guest.
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "vmm/devices/vsock/vsock.h"

namespace hearth::vmm {
void Vsock::ProcessTransmit() {
  if (!Working()) return;
  Virtqueue& queue = context_->queue(kVsockTransmitQueue);
  transmit_waits_ = false;
  for (size_t packets = 0; packets < kVsockTurnPackets; ++packets) {
    if (replies_.size() >= kVsockMaxReplies) {
      transmit_waits_ = true;  // PumpReceive() resumes it.
      context_->SignalUsed(kVsockTransmitQueue);
      return;
    }
    const Virtqueue::PopResult result = queue.Pop(transmit_chain_);
    if (result == Virtqueue::PopResult::kBroken) {
      Fail(queue.broken_reason());
      return;
    }
    if (result == Virtqueue::PopResult::kEmpty) break;
    VsockHeader header;
    GuestBuffer& payload = transmit_chain_.readable();
    if (!payload.CopyOutValue(header)) {
      Fail("vsock packet shorter than its header");
      return;
    }
    HandlePacket(header, payload);
    if (stale_packets_ != 0) --stale_packets_;
    queue.Push(transmit_chain_, 0);
  }
  context_->SignalUsed(kVsockTransmitQueue);
  if (queue.EnableNotification()) context_->ScheduleQueue(kVsockTransmitQueue);
}

void Vsock::HandlePacket(const VsockHeader& header, GuestBuffer& payload) {
  if (header.src_cid.get() != options_.guest_cid) {
    context_->ReportGuestError("vsock packet from another's CID");
    return;
  }
  if (header.dst_cid.get() != kVsockHostCid) return;  // Nobody is there; not answered (as vhost).
  const uint32_t length = header.len.get();
  if (length > payload.size()) {
    context_->ReportGuestError("vsock packet shorter than it says");
    return;
  }
  payload.Truncate(length);
  const VsockPorts ports{.host = header.dst_port.get(), .guest = header.src_port.get()};
  const auto op = static_cast<VsockOp>(header.op.get());
  const auto found = connections_.find(ports.Key());
  if (header.type.get() != kVsockTypeStream) {
    if (op != VsockOp::kReset) replies_.push_back(ports);  // 5.10.6.4.1
    return;
  }
  if (found != connections_.end()) {
    HandleConnectionPacket(*found->second, header, payload);
  } else if (op == VsockOp::kRequest) {
    HandleRequest(ports, header);
  } else if (op != VsockOp::kReset) {
    replies_.push_back(ports);
  }
}

void Vsock::HandleRequest(VsockPorts ports, const VsockHeader& header) {
  const auto& declared = options_.host_ports;
  const bool wanted = options_.accept && stale_packets_ == 0 &&
                      std::find(declared.begin(), declared.end(), ports.host) != declared.end() &&
                      connections_.size() < kVsockMaxConnections &&
                      accept_budget_.Take(1, options_.now_ns());
  std::array<int, 2> pair;
  if (!wanted || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    ++counters_.connections_refused;
    replies_.push_back(ports);
    return;
  }
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  auto connection = AddConnection(ports, VsockState::kEstablished, std::move(ours));
  if (!connection.ok()) {
    ++counters_.connections_refused;
    replies_.push_back(ports);
    return;
  }
  if (!options_.accept(ports.host, ports.guest, std::move(theirs)).ok()) {
    ++counters_.connections_refused;
    RemoveWithReset(**connection);
    return;
  }
  (*connection)->UpdatePeer(header);
  (*connection)->pending = kPendingResponse;
  MarkReady(**connection);
}

void Vsock::HandleConnectionPacket(VsockConnection& connection, const VsockHeader& header,
                                   GuestBuffer& payload) {
  const auto op = static_cast<VsockOp>(header.op.get());
  if (op == VsockOp::kReset) {
    HandleReset(connection);
    return;
  }
  if (connection.state() == VsockState::kDraining) {  // For the guest it is gone.
    replies_.push_back(connection.ports());
    return;
  }
  connection.UpdatePeer(header);
  if (op == VsockOp::kResponse) {
    if (!connection.request_sent || !connection.MoveTo(VsockState::kEstablished)) {
      context_->ReportGuestError("vsock response to no request");
      RemoveWithReset(connection);
      return;
    }
    connection.deadline_ns = 0;
    // What happened to the host's end meanwhile.
    if (connection.host_hung_up) SetDeadline(connection, kVsockLingerTimeoutNs);
    MarkReady(connection);
    return;
  }
  if (connection.state() == VsockState::kConnecting) {
    context_->ReportGuestError("vsock packet on a connection not yet open");
    RemoveWithReset(connection);
    return;
  }
  switch (op) {
    case VsockOp::kData:
      HandleData(connection, payload);
      return;
    case VsockOp::kShutdown:
      HandleShutdown(connection, header.flags.get());
      return;
    case VsockOp::kCreditRequest:
      connection.pending |= kPendingCreditUpdate;
      MarkReady(connection);
      return;
    case VsockOp::kCreditUpdate:
      MarkReady(connection);
      return;
    default:
      context_->ReportGuestError("vsock packet of an unknown or unexpected kind");
      RemoveWithReset(connection);
  }
}

void Vsock::HandleReset(VsockConnection& connection) {
  // After an orderly end the guest may lose patience before the host's end has read everything
  // (Linux waits for 8 s): the bytes it sent still arrive.
  const bool orderly = (connection.guest_shutdown & kVsockShutdownSend) != 0;
  if (!orderly || connection.drained() || !connection.MoveTo(VsockState::kDraining)) {
    if (connection.state() != VsockState::kDraining) Remove(connection);
    return;
  }
  connection.pending = 0;
  connection.deadline_ns = 0;
  Unready(connection);
}

void Vsock::HandleShutdown(VsockConnection& connection, uint32_t flags) {
  const uint32_t added = flags & kVsockShutdownBoth & ~connection.guest_shutdown;
  connection.guest_shutdown |= added;
  if (added & kVsockShutdownSend) connection.ShutdownHostReading();
  if (added & kVsockShutdownReceive) connection.ShutdownHostWriting();
  if (connection.guest_shutdown == kVsockShutdownBoth) {
    FinishIfDrained(connection);
    return;
  }
  UpdateShutdown(connection);
  MarkReady(connection);
}

void Vsock::HandleData(VsockConnection& connection, GuestBuffer& payload) {
  if (connection.guest_shutdown & kVsockShutdownSend) {
    context_->ReportGuestError("vsock data after the end of data");
    RemoveWithReset(connection);
    return;
  }
  const uint64_t bytes = payload.size();
  if (!connection.Write(payload)) {
    context_->ReportGuestError("vsock data beyond the credit");
    RemoveWithReset(connection);
    return;
  }
  counters_.rx_bytes += bytes;
  UpdateShutdown(connection);
  MarkReady(connection);
}

}  // namespace hearth::vmm
