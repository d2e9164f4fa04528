// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/virtqueue.h"

#include <bit>
#include <cstddef>

#include "vmm/memory/endian.h"

namespace hearth::vmm {
namespace {

// VIRTIO 1.2, 2.7.5, 2.7.6 and 2.7.8.
struct Descriptor {
  Le64 address;
  Le32 length;
  Le16 flags;
  Le16 next;
};
static_assert(sizeof(Descriptor) == 16 && offsetof(Descriptor, next) == 14);

struct UsedElement {
  Le32 id;
  Le32 length;
};
static_assert(sizeof(UsedElement) == 8);

constexpr uint16_t kDescriptorNext = 1;
constexpr uint16_t kDescriptorWrite = 2;
constexpr uint16_t kDescriptorIndirect = 4;
constexpr uint16_t kAvailNoInterrupt = 1;

// Both rings: le16 flags, le16 index, the elements, le16 event.
constexpr size_t kRingFlags = 0;
constexpr size_t kRingIndex = 2;
constexpr size_t kRingElements = 4;

constexpr size_t AvailEvent(size_t size) { return kRingElements + sizeof(Le16) * size; }
constexpr size_t UsedEvent(size_t size) { return kRingElements + sizeof(UsedElement) * size; }

}  // namespace

std::string_view Virtqueue::Activate(const GuestMemory& memory, const VirtqueueState& state) {
  if (!std::has_single_bit(state.size) || state.size > kMaxQueueSize) {
    return "queue size is not a power of two within the limit";
  }
  if (!state.descriptors.IsAligned(16) || !state.driver_area.IsAligned(2) ||
      !state.device_area.IsAligned(4)) {
    return "queue address is not aligned";
  }
  const auto descriptors = memory.Span(state.descriptors, sizeof(Descriptor) * state.size);
  const auto avail = memory.Span(state.driver_area, AvailEvent(state.size) + sizeof(Le16));
  const auto used = memory.Span(state.device_area, UsedEvent(state.size) + sizeof(Le16));
  if (!descriptors || !avail || !used) return "queue address is not in RAM";
  memory_ = &memory;
  state_ = state;
  state_.ready = true;
  descriptors_ = *descriptors;
  avail_ = *avail;
  used_ = *used;
  return {};
}

std::string_view Virtqueue::Restore(const GuestMemory& memory, const VirtqueueState& state) {
  if (static_cast<uint16_t>(state.next_avail - state.next_used) > state.size ||
      static_cast<uint16_t>(state.next_used - state.signalled_used) > state.size) {
    return "queue's indices are further apart than its size";
  }
  const std::string_view error = Activate(memory, state);
  if (error.empty() && state.broken) broken_reason_ = "queue was broken when it was saved";
  return error;
}

void Virtqueue::Reset() { *this = Virtqueue(); }

Virtqueue::PopResult Virtqueue::Break(std::string_view reason) {
  state_.broken = true;
  broken_reason_ = reason;
  return PopResult::kBroken;
}

uint16_t Virtqueue::LoadAvailIndex() const {
  // Pairs with the driver's barrier before it writes the index (2.7.13.3): the entries and
  // descriptors below it are visible.
  return avail_.LoadAcquire16(kRingIndex);
}

uint16_t Virtqueue::Waiting() const {
  return active() ? static_cast<uint16_t>(LoadAvailIndex() - state_.next_avail) : 0;
}

Virtqueue::PopResult Virtqueue::Pop(DescriptorChain& chain) {
  if (!active()) return PopResult::kEmpty;
  if (state_.broken) return PopResult::kBroken;
  const uint16_t waiting = static_cast<uint16_t>(LoadAvailIndex() - state_.next_avail);
  if (waiting == 0) return PopResult::kEmpty;
  if (waiting > state_.size) return Break("available index jumped by more than the queue's size");
  const size_t slot = state_.next_avail & (state_.size - 1);
  const uint16_t head = avail_.Load<Le16>(kRingElements + sizeof(Le16) * slot).get();
  const PopResult result = Collect(head, chain);
  if (result == PopResult::kChain) ++state_.next_avail;
  return result;
}

Virtqueue::PopResult Virtqueue::Collect(uint16_t head, DescriptorChain& chain) {
  size_t count = 0;
  size_t readable = 0;
  uint64_t total = 0;
  uint16_t index = head;
  while (true) {
    if (index >= state_.size) return Break("descriptor index beyond the queue");
    if (count == state_.size) return Break("descriptor chain loops");
    const auto descriptor = descriptors_.Load<Descriptor>(sizeof(Descriptor) * index);
    const uint16_t flags = descriptor.flags.get();
    if (flags & kDescriptorIndirect) return Break("indirect descriptor without the feature");
    const bool writable = (flags & kDescriptorWrite) != 0;
    if (!writable && readable != count) return Break("readable descriptor after a writable one");
    const uint32_t length = descriptor.length.get();
    if (length == 0) return Break("descriptor of length 0");
    total += length;
    if (total > UINT32_MAX) return Break("descriptor chain of more than 4 GiB");
    const auto span = memory_->Span(GuestAddress(descriptor.address.get()), length);
    if (!span) return Break("descriptor does not lie in RAM");
    chain.ranges_[count++] = span->iov();
    if (!writable) readable = count;
    if (!(flags & kDescriptorNext)) break;
    index = descriptor.next.get();
  }
  const std::span<iovec> ranges(chain.ranges_.data(), count);
  chain.head_ = head;
  chain.readable_ = GuestBuffer(ranges.first(readable));
  chain.writable_ = GuestBuffer(ranges.subspan(readable));
  return PopResult::kChain;
}

void Virtqueue::Push(const DescriptorChain& chain, uint32_t written_bytes) {
  if (!active()) return;
  const size_t slot = state_.next_used & (state_.size - 1);
  const UsedElement element{.id = Le32(chain.head()), .length = Le32(written_bytes)};
  used_.Store(kRingElements + sizeof(UsedElement) * slot, element);
  ++state_.next_used;
  // Pairs with the driver's barrier after it reads the index (2.7.14): element and data first.
  used_.StoreRelease16(kRingIndex, state_.next_used);
}

bool Virtqueue::TakeInterruptNeeded() {
  if (!active()) return false;
  const uint16_t from = state_.signalled_used;
  const uint16_t to = state_.next_used;
  state_.signalled_used = to;
  if (from == to) return false;
  // Our index before the driver's wish; pairs with the barrier between the driver's writing its
  // wish and its last look at our index. Otherwise both could miss the other's write.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!state_.event_idx) return (avail_.LoadAcquire16(kRingFlags) & kAvailNoInterrupt) == 0;
  const uint16_t event = avail_.LoadAcquire16(AvailEvent(state_.size));
  return static_cast<uint16_t>(to - event - 1) < static_cast<uint16_t>(to - from);
}

bool Virtqueue::EnableNotification() {
  if (!active() || state_.broken) return false;
  if (state_.event_idx) {
    used_.StoreRelease16(UsedEvent(state_.size), state_.next_avail);
    // Pairs with the driver's barrier between its index and its look at our event (2.7.13.4).
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  return LoadAvailIndex() != state_.next_avail;
}

uint16_t Virtqueue::EnableNotificationOfMore() {
  if (!active()) return 0;
  const uint16_t index = LoadAvailIndex();
  if (state_.event_idx) {
    used_.StoreRelease16(UsedEvent(state_.size), index);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // As above.
  }
  return index;
}

}  // namespace hearth::vmm
