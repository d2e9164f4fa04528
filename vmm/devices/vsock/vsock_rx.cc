// SPDX-License-Identifier: Apache-2.0
// The vsock device's receive queue: packets to the guest.
#include "vmm/devices/vsock/vsock.h"

namespace hearth::vmm {
void Vsock::MarkReady(VsockConnection& connection) {
  if (connection.in_ready_list || !connection.HasWork()) return;
  connection.in_ready_list = true;
  connection.next_ready = nullptr;
  connection.previous_ready = ready_last_;
  (ready_last_ == nullptr ? ready_first_ : ready_last_->next_ready) = &connection;
  ready_last_ = &connection;
}

void Vsock::Unready(VsockConnection& connection) {
  if (!connection.in_ready_list) return;
  connection.in_ready_list = false;
  VsockConnection* next = connection.next_ready;
  VsockConnection* previous = connection.previous_ready;
  (previous == nullptr ? ready_first_ : previous->next_ready) = next;
  (next == nullptr ? ready_last_ : next->previous_ready) = previous;
}

void Vsock::PumpReceive() {
  if (!Working()) return;
  Virtqueue& queue = context_->queue(kVsockReceiveQueue);
  size_t packets = 0;
  while (packets < kVsockTurnPackets && (!replies_.empty() || ready_first_ != nullptr)) {
    const Virtqueue::PopResult result = queue.Pop(receive_chain_);
    if (result == Virtqueue::PopResult::kBroken) {
      Fail(queue.broken_reason());
      return;
    }
    if (result == Virtqueue::PopResult::kEmpty) {
      if (queue.EnableNotification()) continue;
      break;  // The driver notifies when it has added buffers.
    }
    GuestBuffer& buffer = receive_chain_.writable();
    if (buffer.size() <= sizeof(VsockHeader)) {
      Fail("vsock receive buffer without room for data");
      return;
    }
    uint32_t used = 0;
    if (!replies_.empty()) {
      used = FillReply(buffer);
    } else {
      VsockConnection& connection = *ready_first_;
      Unready(connection);  // To the end of the list, if there is more: each has its turn.
      used = FillFromConnection(connection, buffer);
      MarkReady(connection);
    }
    if (used == 0) {
      queue.UndoPop();
      continue;
    }
    queue.Push(receive_chain_, used);
    ++packets;
  }
  context_->SignalUsed(kVsockReceiveQueue);
  if (packets == kVsockTurnPackets) context_->ScheduleQueue(kVsockReceiveQueue);
  if (transmit_waits_ && replies_.size() < kVsockMaxReplies) {
    transmit_waits_ = false;
    context_->ScheduleQueue(kVsockTransmitQueue);
  }
}

uint32_t Vsock::FillReply(GuestBuffer& buffer) {
  const VsockPorts ports = replies_.front();
  replies_.pop_front();
  const VsockHeader header{.src_cid = kVsockHostCid,
                           .dst_cid = options_.guest_cid,
                           .src_port = ports.host,
                           .dst_port = ports.guest,
                           .len = 0,
                           .type = kVsockTypeStream,
                           .op = static_cast<uint16_t>(VsockOp::kReset),
                           .flags = 0,
                           .buf_alloc = 0,
                           .fwd_cnt = 0};
  buffer.CopyInValue(header);
  return sizeof(header);
}

uint32_t Vsock::FillControl(VsockConnection& connection, GuestBuffer& buffer, VsockOp op,
                            uint32_t flags) {
  buffer.CopyInValue(connection.MakeHeader(options_.guest_cid, op, flags, 0));
  return sizeof(VsockHeader);
}

uint32_t Vsock::FillFromConnection(VsockConnection& connection, GuestBuffer& buffer) {
  const auto take = [&connection](VsockPending bit) {
    const bool set = (connection.pending & bit) != 0;
    connection.pending &= static_cast<uint8_t>(~bit);
    return set;
  };
  if (take(kPendingRequest)) {
    connection.request_sent = true;
    SetDeadline(connection, kVsockConnectTimeoutNs);
    return FillControl(connection, buffer, VsockOp::kRequest, 0);
  }
  if (take(kPendingResponse)) return FillControl(connection, buffer, VsockOp::kResponse, 0);
  if (connection.Readable()) {
    const uint32_t used = FillData(connection, buffer);
    if (used != 0) return used;
  }
  if (take(kPendingShutdown)) {
    const uint32_t flags = connection.shutdown_flags;
    if (flags == kVsockShutdownBoth && connection.MoveTo(VsockState::kClosing)) {
      SetDeadline(connection, kVsockCloseTimeoutNs);
    }
    return FillControl(connection, buffer, VsockOp::kShutdown, flags);
  }
  if (take(kPendingCreditRequest)) {
    return FillControl(connection, buffer, VsockOp::kCreditRequest, 0);
  }
  if (take(kPendingCreditUpdate)) {
    return FillControl(connection, buffer, VsockOp::kCreditUpdate, 0);
  }
  return 0;
}

uint32_t Vsock::FillData(VsockConnection& connection, GuestBuffer& buffer) {
  // The data first, behind the place of the header, for only then its length is known.
  GuestBuffer data = buffer.Clone(data_ranges_);
  data.Skip(sizeof(VsockHeader));
  uint32_t bytes = 0;
  switch (connection.Read(data, bytes)) {
    case VsockConnection::ReadResult::kNothing:
      return 0;
    case VsockConnection::ReadResult::kEnd:
      UpdateShutdown(connection);
      return 0;
    case VsockConnection::ReadResult::kData:
      break;
  }
  counters_.tx_bytes += bytes;
  if (connection.host_hung_up) SetDeadline(connection, kVsockLingerTimeoutNs);
  if (connection.PeerCredit() == 0) connection.pending |= kPendingCreditRequest;
  buffer.CopyInValue(connection.MakeHeader(options_.guest_cid, VsockOp::kData, 0, bytes));
  return sizeof(VsockHeader) + bytes;
}

}  // namespace hearth::vmm
