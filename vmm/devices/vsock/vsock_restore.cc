// SPDX-License-Identifier: Apache-2.0
// A vsock device that comes out of a snapshot: its connections are gone, and its driver is told so
// by a transport reset on the event queue (VIRTIO 1.2, 5.10.6.7).
//
// The driver has heard of it when it makes another event buffer available: Linux posts the
// buffer again after it has handled the event, and a driver has no other reason to. Until then
// both data queues rest. What the guest would connect to before would be cut off by its own
// handling of the reset, without a word to us; what the host would send could meet sockets of
// before. A packet of the guest is no sign: it may have been on its way when the snapshot was
// taken.
//
// A connect of the guest that lay in the transmit queue when it was saved is refused; a later
// one waits for the sign and is served. All else is refused because nobody knows its connection.
#include <algorithm>

#include "vmm/devices/vsock/vsock.h"

namespace hearth::vmm {

VsockDeviceState Vsock::state() const {
  VsockDeviceState state;
  state.guest_cid = options_.guest_cid;
  state.host_ports = options_.host_ports;
  state.next_host_port = next_host_port_;
  if (reset_ == VsockReset::kUnanswered && context_->running()) {
    state.reset_unanswered = true;
    state.reset_avail = reset_avail_;
  }
  return state;
}

absl::Status Vsock::Restore(const VsockDeviceState& saved) {
  for (const uint32_t port : saved.host_ports) {
    const auto& declared = options_.host_ports;
    if (std::find(declared.begin(), declared.end(), port) == declared.end()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "vsock: the saved guest may connect to host port ", port, ", which is not declared"));
    }
  }
  if (saved.next_host_port < kVsockFirstHostPort) {
    return absl::InvalidArgumentError("saved vsock: the next host port is among declared ones");
  }
  next_host_port_ = saved.next_host_port;
  const bool active = context_ != nullptr && context_->running();
  if (saved.reset_unanswered && !active) {
    return absl::InvalidArgumentError("saved vsock: a transport reset without a driver");
  }
  // A driver that is not there has no connections; one without an event queue learns of the end of
  // each by an RST.
  if (!active || !context_->queue(kVsockEventQueue).active()) return absl::OkStatus();
  reset_ = saved.reset_unanswered ? VsockReset::kUnanswered : VsockReset::kOwed;
  reset_avail_ = saved.reset_avail;
  stale_packets_ = context_->queue(kVsockTransmitQueue).Waiting();
  context_->ScheduleQueue(kVsockEventQueue);  // There it goes on from here.
  return absl::OkStatus();
}

void Vsock::AdvanceReset() {
  if (reset_ == VsockReset::kOwed) PutReset();
  if (reset_ != VsockReset::kUnanswered || !context_->running()) return;
  if (context_->queue(kVsockEventQueue).avail_index() == reset_avail_) return;
  reset_ = VsockReset::kNone;
  ProcessTransmit();
  PumpReceive();
}

void Vsock::PutReset() {
  Virtqueue& queue = context_->queue(kVsockEventQueue);
  Virtqueue::PopResult result;
  do {
    result = queue.Pop(transmit_chain_);
  } while (result == Virtqueue::PopResult::kEmpty && queue.EnableNotification());
  if (result == Virtqueue::PopResult::kEmpty) return;  // The driver notifies when it adds a buffer.
  if (result == Virtqueue::PopResult::kBroken) {
    Fail(queue.broken_reason());
    return;
  }
  const VsockEvent event{.id = kVsockEventTransportReset};
  if (!transmit_chain_.writable().CopyInValue(event)) {
    Fail("vsock event buffer shorter than an event");
    return;
  }
  // Before the driver can see the event: whatever it posts after that is its answer.
  reset_avail_ = queue.EnableNotificationOfMore();
  reset_ = VsockReset::kUnanswered;
  queue.Push(transmit_chain_, sizeof(event));
  context_->SignalUsed(kVsockEventQueue);
}

}  // namespace hearth::vmm
