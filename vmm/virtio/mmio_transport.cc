// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/mmio_transport.h"

#include <bit>
#include <cstring>

namespace hearth::vmm {
namespace {

// VIRTIO 1.2, table 4.1.
enum Register : uint64_t {
  kMagicValue = 0x00,
  kVersion = 0x04,
  kDeviceId = 0x08,
  kVendorId = 0x0c,
  kDeviceFeatures = 0x10,
  kDeviceFeaturesSelect = 0x14,
  kDriverFeatures = 0x20,
  kDriverFeaturesSelect = 0x24,
  kQueueSelect = 0x30,
  kQueueSizeMax = 0x34,
  kQueueSize = 0x38,
  kQueueReady = 0x44,
  kQueueNotify = kVirtioMmioQueueNotify,
  kInterruptStatus = 0x60,
  kInterruptAck = 0x64,
  kStatus = 0x70,
  kQueueDescLow = 0x80,
  kQueueDescHigh = 0x84,
  kQueueDriverLow = 0x90,
  kQueueDriverHigh = 0x94,
  kQueueDeviceLow = 0xa0,
  kQueueDeviceHigh = 0xa4,
  kSharedMemoryLengthLow = 0xb0,
  kSharedMemoryBaseHigh = 0xbc,
  kConfigGeneration = 0xfc,
  kConfig = 0x100,
};

constexpr uint32_t kMagic = 0x74726976;  // "virt"
constexpr uint32_t kInterruptUsed = 1;
constexpr uint32_t kInterruptConfig = 2;

GuestAddress WithLow(GuestAddress address, uint32_t low) {
  return GuestAddress((address.value() & ~uint64_t{UINT32_MAX}) | low);
}
GuestAddress WithHigh(GuestAddress address, uint32_t high) {
  return GuestAddress((address.value() & UINT32_MAX) | (uint64_t{high} << 32));
}

}  // namespace

std::optional<DriverStatus> NextDriverStatus(DriverStatus from, uint8_t value) {
  if (value == 0) return DriverStatus::kReset;
  // NEEDS_RESET is the device's bit; drivers write back what they read.
  const uint8_t bits = value & static_cast<uint8_t>(~kStatusNeedsReset);
  if (from == DriverStatus::kFailed) return std::nullopt;
  if (bits & kStatusFailed) return DriverStatus::kFailed;
  if (bits == StatusBits(from)) return from;
  DriverStatus next;
  switch (from) {
    case DriverStatus::kReset:
      next = DriverStatus::kAcknowledged;
      break;
    case DriverStatus::kAcknowledged:
      next = DriverStatus::kDriver;
      break;
    case DriverStatus::kDriver:
      next = DriverStatus::kFeaturesOk;
      break;
    case DriverStatus::kFeaturesOk:
      next = DriverStatus::kRunning;
      break;
    default:
      return std::nullopt;
  }
  if (bits != StatusBits(next)) return std::nullopt;
  return next;
}

uint8_t StatusBits(DriverStatus status) {
  switch (status) {
    case DriverStatus::kReset:
      return 0;
    case DriverStatus::kAcknowledged:
      return kStatusAcknowledge;
    case DriverStatus::kDriver:
      return kStatusAcknowledge | kStatusDriver;
    case DriverStatus::kFeaturesOk:
      return kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk;
    case DriverStatus::kRunning:
      return kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;
    case DriverStatus::kFailed:
      return kStatusFailed;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<MmioTransport>> MmioTransport::Create(VirtioDevice* device,
                                                                     Wiring wiring) {
  const std::span<const uint16_t> sizes = device->queue_max_sizes();
  if (sizes.empty() || sizes.size() > kMaxDeviceQueues) {
    return absl::InvalidArgumentError("virtio device with no queues or too many");
  }
  for (const uint16_t size : sizes) {
    if (!std::has_single_bit(size) || size > kMaxQueueSize) {
      return absl::InvalidArgumentError("virtio device with an impossible queue size");
    }
  }
  return std::unique_ptr<MmioTransport>(new MmioTransport(device, std::move(wiring)));
}

MmioTransport::MmioTransport(VirtioDevice* device, Wiring wiring)
    : device_(device), wiring_(std::move(wiring)), queue_count_(device->queue_max_sizes().size()) {}

MmioTransportState MmioTransport::state() const {
  MmioTransportState state = state_;
  for (size_t i = 0; i < queue_count_; ++i) {
    if (queues_[i].active()) state.queues[i] = queues_[i].state();
  }
  return state;
}

bool MmioTransport::running() const {
  return state_.status == DriverStatus::kRunning && !state_.needs_reset;
}

uint64_t MmioTransport::OfferedFeatures() const {
  return device_->features() | kFeatureVersion1 | kFeatureEventIdx;
}

void MmioTransport::Read(uint64_t offset, std::span<uint8_t> data) {
  if (offset >= kConfig) {
    device_->ReadConfig(offset - kConfig, data);
    return;
  }
  std::memset(data.data(), 0, data.size());
  // 4.2.2.2: the driver uses aligned 32-bit accesses only.
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  const uint32_t value = ReadRegister(offset);
  std::memcpy(data.data(), &value, sizeof(value));
}

void MmioTransport::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (offset >= kConfig) {
    ReportGuestError("write to the read-only configuration space");
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) {
    ReportGuestError("register write that is not 32 bits wide and aligned");
    return;
  }
  uint32_t value;
  std::memcpy(&value, data.data(), sizeof(value));
  WriteRegister(offset, value);
}

uint32_t MmioTransport::ReadRegister(uint64_t offset) const {
  const bool queue_exists = state_.queue_select < queue_count_;
  switch (offset) {
    case kMagicValue:
      return kMagic;
    case kVersion:
      return 2;
    case kDeviceId:
      return device_->device_id();
    case kVendorId:
      return 0;
    case kDeviceFeatures:
      if (state_.device_features_select > 1) return 0;
      return static_cast<uint32_t>(OfferedFeatures() >> (32 * state_.device_features_select));
    case kQueueSizeMax:
      return queue_exists ? device_->queue_max_sizes()[state_.queue_select] : 0;
    case kQueueReady:
      return queue_exists && queues_[state_.queue_select].active() ? 1 : 0;
    case kInterruptStatus:
      return state_.interrupt_status;
    case kStatus: {
      uint32_t value = StatusBits(state_.status);
      if (state_.status == DriverStatus::kFailed) value |= state_.bits_when_failed;
      if (state_.needs_reset) value |= kStatusNeedsReset;
      return value;
    }
    case kConfigGeneration:
      return state_.config_generation;
    default:
      // 4.2.2.1: a shared memory region that does not exist has length and base ~0.
      if (offset >= kSharedMemoryLengthLow && offset <= kSharedMemoryBaseHigh) return UINT32_MAX;
      return 0;
  }
}

void MmioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSelect:
      state_.device_features_select = value;
      return;
    case kDriverFeaturesSelect:
      state_.driver_features_select = value;
      return;
    case kDriverFeatures:
      WriteDriverFeatures(value);
      return;
    case kQueueSelect:
      state_.queue_select = value;
      return;
    case kQueueNotify:
      if (value < queue_count_ && running() && wiring_.kick) {
        wiring_.kick(static_cast<uint16_t>(value));
      }
      return;
    case kInterruptAck:
      state_.interrupt_status &= ~value;
      return;
    case kStatus:
      WriteStatus(value);
      return;
    default:
      WriteQueueRegister(offset, value);
  }
}

void MmioTransport::WriteDriverFeatures(uint32_t value) {
  if (state_.status != DriverStatus::kDriver) {
    ReportGuestError("features written when none are negotiated");
    return;
  }
  if (state_.driver_features_select > 1) {
    if (value != 0) ReportGuestError("features accepted that were not offered");
    return;
  }
  const uint32_t shift = 32 * state_.driver_features_select;
  state_.driver_features &= ~(uint64_t{UINT32_MAX} << shift);
  state_.driver_features |= uint64_t{value} << shift;
}

void MmioTransport::WriteStatus(uint32_t value) {
  const auto next = value > UINT8_MAX
                        ? std::nullopt
                        : NextDriverStatus(state_.status, static_cast<uint8_t>(value));
  if (!next) {
    ReportGuestError("illegal move of the device status");
    return;
  }
  if (*next == DriverStatus::kReset) {
    Reset();
    return;
  }
  if (*next == state_.status) return;
  switch (*next) {
    case DriverStatus::kFeaturesOk:
      // 3.1.1: the driver reads the bit back to learn whether its choice was accepted.
      if ((state_.driver_features & ~OfferedFeatures()) != 0 ||
          (state_.driver_features & kFeatureVersion1) == 0) {
        ReportGuestError("unacceptable set of features");
        return;
      }
      break;
    case DriverStatus::kFailed:
      state_.bits_when_failed = StatusBits(state_.status);
      if (state_.status == DriverStatus::kRunning) device_->Reset();
      break;
    default:
      break;
  }
  state_.status = *next;
  if (state_.status == DriverStatus::kRunning) Start();
}

void MmioTransport::WriteQueueRegister(uint64_t offset, uint32_t value) {
  if (state_.queue_select >= queue_count_) {
    ReportGuestError("setting of a queue that does not exist");
    return;
  }
  if (offset == kQueueReady) {
    WriteQueueReady(value);
    return;
  }
  if (state_.status != DriverStatus::kFeaturesOk || queues_[state_.queue_select].active()) {
    ReportGuestError("write to a register that is read-only now");
    return;
  }
  VirtqueueState& queue = state_.queues[state_.queue_select];
  switch (offset) {
    case kQueueSize:
      queue.size = value <= kMaxQueueSize ? static_cast<uint16_t>(value) : 0;
      return;
    case kQueueDescLow:
      queue.descriptors = WithLow(queue.descriptors, value);
      return;
    case kQueueDescHigh:
      queue.descriptors = WithHigh(queue.descriptors, value);
      return;
    case kQueueDriverLow:
      queue.driver_area = WithLow(queue.driver_area, value);
      return;
    case kQueueDriverHigh:
      queue.driver_area = WithHigh(queue.driver_area, value);
      return;
    case kQueueDeviceLow:
      queue.device_area = WithLow(queue.device_area, value);
      return;
    case kQueueDeviceHigh:
      queue.device_area = WithHigh(queue.device_area, value);
      return;
    default:
      ReportGuestError("write to a register that does not exist");
  }
}

void MmioTransport::WriteQueueReady(uint32_t value) {
  Virtqueue& queue = queues_[state_.queue_select];
  if (value == 0) {
    queue.Reset();
    return;
  }
  if (state_.status != DriverStatus::kFeaturesOk || queue.active() || value != 1) {
    ReportGuestError("queue made ready at the wrong time");
    return;
  }
  VirtqueueState settings = state_.queues[state_.queue_select];
  settings.event_idx = (state_.driver_features & kFeatureEventIdx) != 0;
  if (settings.size > device_->queue_max_sizes()[state_.queue_select]) settings.size = 0;
  const std::string_view error = queue.Activate(*wiring_.memory, settings);
  if (!error.empty()) FailDevice(error);
}

void MmioTransport::Start() {
  device_->Activate(this);
  if (state_.needs_reset || !wiring_.kick) return;
  // Buffers that the driver made available before DRIVER_OK.
  for (size_t i = 0; i < queue_count_; ++i) {
    if (queues_[i].active()) wiring_.kick(static_cast<uint16_t>(i));
  }
}

void MmioTransport::Reset() {
  if (state_.status == DriverStatus::kRunning) device_->Reset();
  for (Virtqueue& queue : queues_) queue.Reset();
  state_ = MmioTransportState();
}

void MmioTransport::NotifyQueue(uint16_t index) {
  if (index >= queue_count_ || !running() || !queues_[index].active()) return;
  device_->ProcessQueue(index);
}

void MmioTransport::SignalUsed(uint16_t index) {
  if (queues_[index].TakeInterruptNeeded()) RaiseInterrupt(kInterruptUsed);
}

void MmioTransport::ScheduleQueue(uint16_t index) {
  if (wiring_.kick) wiring_.kick(index);
}

void MmioTransport::ReportGuestError(std::string_view what) {
  if (wiring_.errors != nullptr) wiring_.errors->Report(device_->name(), what);
}

void MmioTransport::FailDevice(std::string_view reason) {
  ReportGuestError(reason);
  if (state_.needs_reset) return;
  state_.needs_reset = true;
  // What was given back before is signalled with it: nobody comes to it any more.
  for (size_t i = 0; i < queue_count_; ++i) SignalUsed(static_cast<uint16_t>(i));
  // 2.1.2: a driver that is running is told by a configuration change.
  if (state_.status == DriverStatus::kRunning) RaiseInterrupt(kInterruptConfig);
}

void MmioTransport::RaiseInterrupt(uint32_t cause) {
  state_.interrupt_status |= cause;
  if (wiring_.interrupt) wiring_.interrupt();
}

}  // namespace hearth::vmm
