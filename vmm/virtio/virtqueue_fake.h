// SPDX-License-Identifier: Apache-2.0
// The driver's side of a virtqueue, for tests: builds legal chains, and every illegal one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/virtio/virtqueue.h"

namespace hearth::vmm {

class VirtqueueFake {
 public:
  struct Used {
    uint32_t head;
    uint32_t length;
  };

  // Lays the rings out from `base`, page-aligned, in zeroed memory; they take RingBytes().
  VirtqueueFake(const GuestMemory* memory, GuestAddress base, uint16_t size)
      : memory_(memory), base_(base), size_(size) {}
  // Goes on where `other` is, with a copy of its memory.
  VirtqueueFake(const VirtqueueFake& other, const GuestMemory* memory) : VirtqueueFake(other) {
    memory_ = memory;
  }

  static constexpr uint64_t RingBytes() { return 0x3000; }

  uint16_t size() const { return size_; }
  GuestAddress descriptors() const { return base_; }
  GuestAddress driver_area() const { return GuestAddress(base_.value() + 0x1000); }
  GuestAddress device_area() const { return GuestAddress(base_.value() + 0x2000); }
  // What a transport would hand to Virtqueue::Activate().
  VirtqueueState Settings(bool event_idx = false) const;

  // One entry of the descriptor table, as told.
  void SetDescriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags,
                     uint16_t next);
  // Puts `head` into the available ring and moves the index on.
  void MakeAvailable(uint16_t head);
  void SetAvailIndex(uint16_t index);
  void SetAvailFlags(uint16_t flags);
  void SetUsedEvent(uint16_t event);
  uint16_t AvailEvent() const;
  uint16_t UsedIndex() const;

  struct Buffer {
    GuestAddress address;
    uint32_t length;
    bool writable;
  };
  // A legal chain in free descriptors, made available. Returns its head; nothing when too few
  // descriptors are free.
  std::optional<uint16_t> Add(std::span<const Buffer> buffers);
  // The next chain that the device has returned, whose descriptors are free again.
  std::optional<Used> TakeUsed();

 private:
  const GuestMemory* memory_;
  GuestAddress base_;
  uint16_t size_;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  std::vector<bool> busy_ = std::vector<bool>(size_, false);
  std::vector<std::vector<uint16_t>> chains_ = std::vector<std::vector<uint16_t>>(size_);
};

inline constexpr uint16_t kFakeNext = 1;
inline constexpr uint16_t kFakeWrite = 2;
inline constexpr uint16_t kFakeIndirect = 4;

}  // namespace hearth::vmm
