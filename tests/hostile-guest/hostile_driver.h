// SPDX-License-Identifier: Apache-2.0
// Writes the script of a virtio driver that keeps the rules only where a test wants it to.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "vmm/testing/poke_guest.h"

namespace hearth::vmm::testing {

// Registers of virtio-mmio (VIRTIO 1.2, 4.2.2).
enum Register : uint32_t {
  kMagic = 0x00,
  kVersion = 0x04,
  kDeviceId = 0x08,
  kDeviceFeatures = 0x10,
  kDeviceFeaturesSelect = 0x14,
  kDriverFeatures = 0x20,
  kDriverFeaturesSelect = 0x24,
  kQueueSelect = 0x30,
  kQueueSizeMax = 0x34,
  kQueueSize = 0x38,
  kQueueReady = 0x44,
  kQueueNotify = 0x50,
  kInterruptStatus = 0x60,
  kInterruptAck = 0x64,
  kStatus = 0x70,
  kQueueDescriptorsLow = 0x80,
  kQueueDescriptorsHigh = 0x84,
  kQueueDriverLow = 0x90,
  kQueueDriverHigh = 0x94,
  kQueueDeviceLow = 0xa0,
  kQueueDeviceHigh = 0xa4,
  kConfigGeneration = 0xfc,
  kConfig = 0x100,
};

inline constexpr uint32_t kStatusAck = 1, kStatusDriver = 2, kStatusDriverOk = 4,
                          kStatusFeaturesOk = 8, kStatusNeedsReset = 64, kStatusFailed = 128;
inline constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

struct Descriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;
};

// The devices of the machine that hostile_machine.h builds, in the order of their pages.
enum class Target { kReadOnlyDisk, kDisk, kRng, kVsock };
inline constexpr std::array kTargets = {Target::kReadOnlyDisk, Target::kDisk, Target::kRng,
                                        Target::kVsock};
inline constexpr uint32_t kDevicePages = 0xd0000000;
inline constexpr uint32_t kRamBytes = 8 << 20;

inline const char* Name(Target target) {
  constexpr const char* kNames[] = {"read-only disk", "disk", "rng", "vsock"};
  return kNames[static_cast<int>(target)];
}
// Where a queue's rings lie, where its driver puts buffers.
inline constexpr uint32_t QueueMemory(uint32_t queue) { return 0x200000 + queue * 0x10000; }
inline constexpr uint32_t Descriptors(uint32_t queue) { return QueueMemory(queue); }
inline constexpr uint32_t Available(uint32_t queue) { return QueueMemory(queue) + 0x2000; }
inline constexpr uint32_t Used(uint32_t queue) { return QueueMemory(queue) + 0x4000; }
inline constexpr uint32_t kBuffers = 0x300000;

class HostileDriver {
 public:
  // Goes on with `script`, if another driver began it.
  explicit HostileDriver(Target target, PokeScript script = {})
      : target_(target),
        page_(kDevicePages + static_cast<uint32_t>(target) * 0x1000),
        script_(std::move(script)) {}

  PokeScript& script() { return script_; }
  Target target() const { return target_; }
  uint32_t At(uint32_t reg) const { return page_ + reg; }
  HostileDriver& Set(uint32_t reg, uint32_t value) {
    script_.Write32(At(reg), value);
    return *this;
  }

  uint32_t queue_count() const { return target_ == Target::kVsock ? 3 : 1; }
  // The queue that this driver's requests go to.
  uint32_t request_queue() const { return target_ == Target::kVsock ? 1 : 0; }

  // Up to FEATURES_OK with VERSION_1 only.
  HostileDriver& Negotiate();
  // All registers of a queue, ready included, with `size` entries at the usual places.
  HostileDriver& SetUpQueue(uint32_t queue, uint32_t size = 8);
  HostileDriver& DriverOk() {
    return Set(kStatus, kStatusAck | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }
  // All of the above: a device that runs.
  HostileDriver& BringUp(uint32_t size = 8);

  HostileDriver& Describe(uint32_t queue, uint32_t index, const Descriptor& descriptor);
  // Puts chain heads into the ring from entry 0 on, sets its index and notifies.
  HostileDriver& Offer(uint32_t queue, const std::vector<uint16_t>& heads, uint16_t index);
  HostileDriver& Offer(uint32_t queue, const std::vector<uint16_t>& heads) {
    return Offer(queue, heads, static_cast<uint16_t>(heads.size()));
  }
  HostileDriver& Notify(uint32_t queue) { return Set(kQueueNotify, queue); }

  // Yields 1 once the device has asked for a reset.
  HostileDriver& AwaitNeedsReset() {
    script_.WaitBits32(At(kStatus), kStatusNeedsReset);
    return *this;
  }
  // Yields 1 once `count` chains came back.
  HostileDriver& AwaitUsed(uint32_t queue, uint16_t count) {
    script_.Wait16(Used(queue) + 2, count);
    return *this;
  }

  // Describes a well-formed request from descriptor `first` on: for a disk a read of sector 0, for
  // the rng 64 bytes, for the vsock a reset of a connection that does not exist. `head` is where
  // its header lies, or what the rng fills: 64 bytes.
  HostileDriver& DescribeGoodRequest(uint32_t first = 0, uint32_t head = kBuffers);

  // Resets the device, brings it up and yields 1 if it serves a good request.
  HostileDriver& ProveHealthy();

 private:
  Target target_;
  uint32_t page_;
  PokeScript script_;
};

}  // namespace hearth::vmm::testing
