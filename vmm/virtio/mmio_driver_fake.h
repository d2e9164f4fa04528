// SPDX-License-Identifier: Apache-2.0
// A driver of a virtio-mmio device, for tests: goes through the registers as Linux does, and then
// works the queues. It runs the device's side itself, as the machine's loop would.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "vmm/virtio/mmio_transport.h"
#include "vmm/virtio/virtqueue_fake.h"

namespace hearth::vmm {

// The status register while the driver runs.
inline constexpr uint32_t kRunningBits =
    kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

class MmioDriverFake {
 public:
  // RAM from 0 to kRamBytes; the rings lie at its start, buffers from kBuffers on.
  static constexpr uint64_t kRamBytes = 16 << 20;
  static constexpr GuestAddress kRings{0x10000};
  static constexpr GuestAddress kBuffers{0x100000};

  explicit MmioDriverFake(VirtioDevice* device);

  // Goes on where `saved` is, with a copy of its memory and `device`, whose transport is fresh: the
  // test restores it.
  MmioDriverFake(VirtioDevice* device, const MmioDriverFake& saved);
  // The same with the memory itself; `saved` must not be used again.
  MmioDriverFake(VirtioDevice* device, MmioDriverFake&& saved);

  uint32_t Read(uint64_t offset);
  void Write(uint64_t offset, uint32_t value);

  // Reset up to FEATURES_OK with all features offered (and no EVENT_IDX if not wanted), queues set
  // up and ready, DRIVER_OK.
  void Start(bool event_idx = false);
  void NegotiateFeatures(bool event_idx);
  void SetUpQueue(uint16_t index);

  // The driver notifies queue `index`, and the device works off this and what follows from it.
  void Notify(uint16_t index);
  // Works off notifications that the device or the transport asked for.
  void RunKicks();

  GuestMemory& memory() { return memory_; }
  MmioTransport& transport() { return *transport_; }
  VirtqueueFake& queue(uint16_t index) { return queues_[index]; }
  uint64_t guest_errors() const { return errors_.count(); }
  size_t kicks() const { return kicks_.size(); }
  int interrupts() const { return interrupts_; }
  bool needs_reset() { return (Read(0x70) & kStatusNeedsReset) != 0; }

 private:
  void CreateTransport(VirtioDevice* device);

  GuestMemory memory_;
  GuestErrors errors_;
  std::deque<uint16_t> kicks_;
  int interrupts_ = 0;
  std::unique_ptr<MmioTransport> transport_;
  std::vector<VirtqueueFake> queues_;
};

}  // namespace hearth::vmm
