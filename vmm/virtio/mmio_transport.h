// SPDX-License-Identifier: Apache-2.0
// The virtio-mmio register block, version 2 (VIRTIO 1.2, 4.2.2).
//
// Threads: everything under the machine's device lock. Register accesses come from vCPU threads
// and only change state; work on queues is done by NotifyQueue() on the loop's thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "vmm/bus/bus_device.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/virtio/guest_errors.h"
#include "vmm/virtio/virtio_device.h"

namespace hearth::vmm {

// The size of a device's register block, and the offset of QueueNotify in it: the machine puts an
// ioeventfd there for each queue (4 bytes wide, matching the queue's index).
inline constexpr uint64_t kVirtioMmioBytes = 0x1000;
inline constexpr uint64_t kVirtioMmioQueueNotify = 0x50;

// How far the driver has come (2.1, 3.1.1). The table is in docs/state-tables.md.
enum class DriverStatus : uint8_t {
  kReset,         // 0
  kAcknowledged,  // ACKNOWLEDGE
  kDriver,        // ... DRIVER: features are negotiated now
  kFeaturesOk,    // ... FEATURES_OK: queues are set up now
  kRunning,       // ... DRIVER_OK
  kFailed,        // The driver gave up.
};

inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// The one transition function: where a write of `value` to the status register leads from `from`,
// or nothing if the move is illegal. Whether the features are acceptable is the caller's question.
std::optional<DriverStatus> NextDriverStatus(DriverStatus from, uint8_t value);
// The register's value in that state without NEEDS_RESET; of kFailed FAILED alone.
uint8_t StatusBits(DriverStatus status);
// The state whose register value `bits` is, without NEEDS_RESET; nothing when no driver gets there.
std::optional<DriverStatus> StatusFromBits(uint8_t bits);

// All there is to a transport; a snapshot of it is this struct.
struct MmioTransportState {
  DriverStatus status = DriverStatus::kReset;
  uint8_t bits_when_failed = 0;  // The register's value when kFailed was entered.
  bool needs_reset = false;
  uint32_t device_features_select = 0;
  uint32_t driver_features_select = 0;
  uint32_t queue_select = 0;
  uint32_t interrupt_status = 0;
  uint32_t config_generation = 0;
  uint64_t driver_features = 0;
  std::array<VirtqueueState, kMaxDeviceQueues> queues;

  bool operator==(const MmioTransportState&) const = default;
};

class MmioTransport : public BusDevice, private VirtioContext {
 public:
  struct Wiring {
    const GuestMemory* memory = nullptr;  // Outlives the transport, like `errors`.
    GuestErrors* errors = nullptr;
    InterruptLine interrupt;
    // Makes the loop's thread call NotifyQueue(index) soon; the machine writes to that queue's
    // ioeventfd. Called from any thread.
    std::function<void(uint16_t queue)> kick;
  };

  // `device` outlives the transport.
  static absl::StatusOr<std::unique_ptr<MmioTransport>> Create(VirtioDevice* device, Wiring wiring);

  // BusDevice. Any thread.
  void Read(uint64_t offset, std::span<uint8_t> data) override;
  void Write(uint64_t offset, std::span<const uint8_t> data) override;

  // The ioeventfd of queue `index` was signalled. The loop's thread.
  void NotifyQueue(uint16_t index);

  size_t queue_count() const { return queue_count_; }
  const VirtioDevice& device() const { return *device_; }
  MmioTransportState state() const;

  // Takes over a state, right after Create(). It is judged as if a driver had written it: an error
  // (INVALID_ARGUMENT) names what no driver could have brought about, and the transport is of no
  // use then. Activates the device if its driver was running.
  absl::Status Restore(const MmioTransportState& saved);
  // After Restore() and whatever the device itself takes over: raises the interrupt that the driver
  // has not acknowledged, and has the loop see to the queues in which chains wait. Nothing of
  // theirs is looked at here: a restore comes before the seccomp filter of who works on them.
  void ResumeRestored();

 private:
  MmioTransport(VirtioDevice* device, Wiring wiring);

  uint64_t features() const override { return state_.driver_features; }
  bool running() const override;
  Virtqueue& queue(uint16_t index) override { return queues_[index]; }
  void SignalUsed(uint16_t index) override;
  void ScheduleQueue(uint16_t index) override;
  void ReportGuestError(std::string_view what) override;
  void FailDevice(std::string_view reason) override;

  uint64_t OfferedFeatures() const;
  uint32_t ReadRegister(uint64_t offset) const;
  void WriteRegister(uint64_t offset, uint32_t value);
  void WriteDriverFeatures(uint32_t value);
  void WriteStatus(uint32_t value);
  void WriteQueueRegister(uint64_t offset, uint32_t value);
  void WriteQueueReady(uint32_t value);
  void Start();
  void Reset();
  void RaiseInterrupt(uint32_t cause);
  absl::Status RestoreQueue(size_t index, const MmioTransportState& saved);

  VirtioDevice* device_;
  Wiring wiring_;
  size_t queue_count_;
  MmioTransportState state_;  // Its queues are the driver's settings until they are ready.
  std::array<Virtqueue, kMaxDeviceQueues> queues_;
};

}  // namespace hearth::vmm
