// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "vmm/virtio/virtqueue.h"

namespace hearth::vmm {

// VIRTIO 1.2, chapter 6.
inline constexpr uint64_t kFeatureEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr size_t kMaxDeviceQueues = 3;

// What a transport offers its device.
class VirtioContext {
 public:
  virtual ~VirtioContext() = default;
  // The features that both sides agreed on.
  virtual uint64_t features() const = 0;
  // False once the device has failed, until the driver resets it: then it does no work.
  virtual bool running() const = 0;
  virtual Virtqueue& queue(uint16_t index) = 0;
  // Interrupts the driver if it wants to hear of what was pushed to the queue.
  virtual void SignalUsed(uint16_t index) = 0;
  // Has ProcessQueue(index) called again after other work had its turn: nobody may hold the loop's
  // thread for as long as a guest keeps feeding a queue.
  virtual void ScheduleQueue(uint16_t index) = 0;
  // The driver did something illegal: counted, logged (rate-limited).
  virtual void ReportGuestError(std::string_view what) = 0;
  // The same, and the device stops until the driver resets it (DEVICE_NEEDS_RESET). The transport
  // calls the device's Reset() only when the driver resets.
  virtual void FailDevice(std::string_view reason) = 0;
};

// A virtio device behind a transport. Every call comes with the machine's device lock held.
// ProcessQueue() comes on the loop's thread; the others come on any thread, so they start no work.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  virtual std::string_view name() const = 0;  // For logs.
  virtual uint32_t device_id() const = 0;     // VIRTIO 1.2, chapter 5.
  // Without those the transport adds (VERSION_1, EVENT_IDX).
  virtual uint64_t features() const = 0;
  // One size for each queue, at most kMaxDeviceQueues of at most kMaxQueueSize.
  virtual std::span<const uint16_t> queue_max_sizes() const = 0;
  // Fills `data` from the configuration space; zeros beyond its end.
  virtual void ReadConfig(uint64_t offset, std::span<uint8_t> data) const = 0;

  // The driver is ready. `context` is valid until the call of Reset() returns.
  virtual void Activate(VirtioContext* context) = 0;
  virtual void Reset() = 0;
  // The driver notified queue `index`; only while active.
  virtual void ProcessQueue(uint16_t index) = 0;
};

// For ReadConfig(): `config` is the device's whole configuration space.
inline void CopyConfig(std::span<const uint8_t> config, uint64_t offset, std::span<uint8_t> data) {
  std::memset(data.data(), 0, data.size());
  if (offset >= config.size()) return;
  const size_t bytes = std::min<size_t>(data.size(), config.size() - offset);
  std::memcpy(data.data(), config.data() + offset, bytes);
}

}  // namespace hearth::vmm
