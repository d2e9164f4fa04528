// SPDX-License-Identifier: Apache-2.0
// The device's side of a split virtqueue (VIRTIO 1.2, 2.7).
//
// Who writes what: the descriptor table and the available ring belong to the driver and may change
// at any time; the used ring is ours and never read back. Each descriptor is copied once and the
// copy judged. A chain visits at most `size` descriptors, so a loop ends. Indirect descriptors are
// not offered, hence illegal. Anything illegal makes Pop() answer kBroken with a reason; the queue
// is dead from then on and the transport asks for a reset.
//
// Thread: under the machine's device lock.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "vmm/memory/guest_buffer.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

// The largest queue a device may have, which also bounds a chain.
inline constexpr uint16_t kMaxQueueSize = 256;

// All there is to a queue; a snapshot of it is this struct.
struct VirtqueueState {
  uint16_t size = 0;  // A power of two, at most the device's maximum.
  bool ready = false;
  bool event_idx = false;       // VIRTIO_F_EVENT_IDX was negotiated.
  bool broken = false;          // The driver broke a rule.
  GuestAddress descriptors;     // 16-byte aligned.
  GuestAddress driver_area;     // The available ring, 2-byte aligned.
  GuestAddress device_area;     // The used ring, 4-byte aligned.
  uint16_t next_avail = 0;      // The next entry of the available ring to take.
  uint16_t next_used = 0;       // The next entry of the used ring to fill.
  uint16_t signalled_used = 0;  // next_used when an interrupt was last considered.

  bool operator==(const VirtqueueState&) const = default;
};

// One request: its buffers, the device-readable ones first (2.7.4.2). The storage is reused for
// chain after chain. Move and copy are off because the buffers point into it.
class DescriptorChain {
 public:
  DescriptorChain() = default;
  DescriptorChain(const DescriptorChain&) = delete;
  DescriptorChain& operator=(const DescriptorChain&) = delete;

  uint16_t head() const { return head_; }
  GuestBuffer& readable() { return readable_; }
  GuestBuffer& writable() { return writable_; }

 private:
  friend class Virtqueue;
  std::array<iovec, kMaxQueueSize> ranges_;
  uint16_t head_ = 0;
  GuestBuffer readable_;
  GuestBuffer writable_;
};

class Virtqueue {
 public:
  enum class PopResult { kEmpty, kChain, kBroken };

  Virtqueue() = default;

  // Checks the addresses of `state` against `memory`, which outlives the queue, and starts using
  // them. An error is a text that says what the driver did wrong; empty means success.
  std::string_view Activate(const GuestMemory& memory, const VirtqueueState& state);
  // The same for a queue that worked before: its place in the rings and whether it was broken are
  // taken over, too.
  std::string_view Restore(const GuestMemory& memory, const VirtqueueState& state);
  // Back to an unconfigured queue.
  void Reset();

  const VirtqueueState& state() const { return state_; }
  bool active() const { return state_.ready && memory_ != nullptr; }

  // How many chains wait, says the driver: more than the queue's size make the next Pop() break.
  uint16_t Waiting() const;
  // Takes the next chain. After kBroken broken_reason() says why.
  PopResult Pop(DescriptorChain& chain);
  // Puts back the chain just popped: the next Pop() yields it again. Nothing was pushed since.
  void UndoPop() { --state_.next_avail; }
  // Returns a chain to the driver; `written_bytes` were written to its writable buffers.
  void Push(const DescriptorChain& chain, uint32_t written_bytes);

  // After one or more Push(): whether the driver wants an interrupt for them (2.7.7).
  bool TakeInterruptNeeded();
  // Asks for a notification of the next available chain (2.7.10). True when one came meanwhile,
  // which then must be popped, for the driver may not notify.
  bool EnableNotification();
  // Asks for a notification of the next chain beyond those that are available now, and returns the
  // available index without it. The caller looks at avail_index() again before it relies on one.
  uint16_t EnableNotificationOfMore();
  // The driver's; any value.
  uint16_t avail_index() const { return active() ? LoadAvailIndex() : 0; }

  std::string_view broken_reason() const { return broken_reason_; }

 private:
  PopResult Break(std::string_view reason);
  PopResult Collect(uint16_t head, DescriptorChain& chain);
  uint16_t LoadAvailIndex() const;

  const GuestMemory* memory_ = nullptr;
  VirtqueueState state_;
  GuestSpan descriptors_;
  GuestSpan avail_;
  GuestSpan used_;
  std::string_view broken_reason_;
};

}  // namespace hearth::vmm
