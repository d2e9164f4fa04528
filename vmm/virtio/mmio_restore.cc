// SPDX-License-Identifier: Apache-2.0
// A transport's state from a snapshot. Who wrote the snapshot is not trusted, nor is the guest that
// brought the state about: nothing gets in here that a driver could not have reached by registers.
#include "vmm/virtio/mmio_transport.h"

namespace hearth::vmm {
namespace {

constexpr uint32_t kInterruptCauses = 3;  // 4.2.2: used buffer, configuration change.

absl::Status Nonsense(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("saved virtio transport: ", what));
}

absl::string_view Text(std::string_view text) { return {text.data(), text.size()}; }

bool IsBlank(const VirtqueueState& queue) {
  return queue.size == 0 && queue.descriptors.value() == 0 && queue.driver_area.value() == 0 &&
         queue.device_area.value() == 0;
}

// The driver's settings alone.
VirtqueueState SettingsOf(const VirtqueueState& queue) {
  VirtqueueState settings;
  settings.size = queue.size;
  settings.descriptors = queue.descriptors;
  settings.driver_area = queue.driver_area;
  settings.device_area = queue.device_area;
  return settings;
}

// The status register's bits that say how far the driver came, also when it failed later.
uint8_t Progress(const MmioTransportState& saved) {
  return saved.status == DriverStatus::kFailed ? saved.bits_when_failed : StatusBits(saved.status);
}

absl::Status CheckStatus(const MmioTransportState& saved, uint64_t offered) {
  const uint8_t progress = Progress(saved);
  if (!StatusFromBits(progress) || (progress & kStatusFailed) != 0) {
    return Nonsense("a device status that no driver gets to");
  }
  if ((progress & kStatusDriver) == 0 && saved.driver_features != 0) {
    return Nonsense("features chosen before any driver was there");
  }
  if ((progress & kStatusFeaturesOk) != 0 && ((saved.driver_features & ~offered) != 0 ||
                                              (saved.driver_features & kFeatureVersion1) == 0)) {
    return Nonsense("features agreed on that this device does not offer");
  }
  if ((progress & kStatusFeaturesOk) == 0 && saved.needs_reset) {
    return Nonsense("a device that failed before it had queues");
  }
  if ((saved.interrupt_status & ~kInterruptCauses) != 0 ||
      ((progress & kStatusDriverOk) == 0 && saved.interrupt_status != 0)) {
    return Nonsense("an interrupt without a cause");
  }
  return absl::OkStatus();
}

// What does not depend on the device's limits or on memory.
absl::Status CheckQueue(const VirtqueueState& queue, const MmioTransportState& saved) {
  const uint8_t progress = Progress(saved);
  const bool moved = queue.next_avail != 0 || queue.next_used != 0 || queue.signalled_used != 0;
  if ((progress & kStatusFeaturesOk) == 0 && (queue.ready || !IsBlank(queue))) {
    return Nonsense("a queue set up before the features were agreed on");
  }
  if (queue.size > kMaxQueueSize) return Nonsense("a queue beyond the largest size");
  if (moved && (!queue.ready || (progress & kStatusDriverOk) == 0)) {
    return Nonsense("a queue used before the driver was ready");
  }
  if (queue.broken && (!queue.ready || !saved.needs_reset)) {
    return Nonsense("a broken queue of a device that has not failed");
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DriverStatus> StatusFromBits(uint8_t bits) {
  if ((bits & kStatusFailed) != 0) {
    const uint8_t before = bits & static_cast<uint8_t>(~kStatusFailed);
    if (!StatusFromBits(before)) return std::nullopt;
    return DriverStatus::kFailed;
  }
  for (const DriverStatus status :
       {DriverStatus::kReset, DriverStatus::kAcknowledged, DriverStatus::kDriver,
        DriverStatus::kFeaturesOk, DriverStatus::kRunning}) {
    if (StatusBits(status) == bits) return status;
  }
  return std::nullopt;
}

absl::Status MmioTransport::Restore(const MmioTransportState& saved) {
  RETURN_IF_ERROR(CheckStatus(saved, OfferedFeatures()));
  state_ = saved;
  for (size_t i = 0; i < kMaxDeviceQueues; ++i) {
    RETURN_IF_ERROR(CheckQueue(saved.queues[i], saved));
    if (i >= queue_count_ && !IsBlank(saved.queues[i])) return Nonsense("a queue too many");
    state_.queues[i] = SettingsOf(saved.queues[i]);
    if (saved.queues[i].ready) RETURN_IF_ERROR(RestoreQueue(i, saved));
  }
  if (state_.status == DriverStatus::kRunning) device_->Activate(this);
  return absl::OkStatus();
}

absl::Status MmioTransport::RestoreQueue(size_t index, const MmioTransportState& saved) {
  VirtqueueState state = saved.queues[index];
  if (index >= queue_count_ || state.size > device_->queue_max_sizes()[index]) {
    return Nonsense("a queue that the device does not have in this size");
  }
  state.event_idx = (saved.driver_features & kFeatureEventIdx) != 0;
  Virtqueue& queue = queues_[index];
  const std::string_view error = queue.Restore(*wiring_.memory, state);
  if (!error.empty()) return Nonsense(Text(error));
  if (!running())
    return absl::OkStatus();  // A device that has failed left its queues as they were.
  if (queue.Waiting() > state.size) return Nonsense("available index beyond the queue's size");
  // Devices finish what they take before they are saved.
  if (state.next_avail != state.next_used) return Nonsense("chains that nobody will give back");
  return absl::OkStatus();
}

void MmioTransport::ResumeRestored() {
  if (state_.interrupt_status != 0 && wiring_.interrupt) wiring_.interrupt();
  for (size_t i = 0; i < queue_count_; ++i) {
    // Of a queue without chains the driver's next notification is already asked for, in memory.
    if (queues_[i].Waiting() != 0) ScheduleQueue(static_cast<uint16_t>(i));
  }
}

}  // namespace hearth::vmm
