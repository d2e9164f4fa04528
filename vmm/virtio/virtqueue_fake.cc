// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/virtqueue_fake.h"

#include "vmm/memory/endian.h"

namespace hearth::vmm {
namespace {

GuestAddress At(GuestAddress base, uint64_t offset) { return GuestAddress(base.value() + offset); }

}  // namespace

VirtqueueState VirtqueueFake::Settings(bool event_idx) const {
  VirtqueueState state;
  state.size = size_;
  state.event_idx = event_idx;
  state.descriptors = descriptors();
  state.driver_area = driver_area();
  state.device_area = device_area();
  return state;
}

void VirtqueueFake::SetDescriptor(uint16_t index, uint64_t address, uint32_t length, uint16_t flags,
                                  uint16_t next) {
  const GuestAddress at = At(descriptors(), 16ULL * index);
  memory_->WriteValue(at, Le64(address));
  memory_->WriteValue(At(at, 8), Le32(length));
  memory_->WriteValue(At(at, 12), Le16(flags));
  memory_->WriteValue(At(at, 14), Le16(next));
}

void VirtqueueFake::MakeAvailable(uint16_t head) {
  memory_->WriteValue(At(driver_area(), 4 + 2ULL * (next_avail_ % size_)), Le16(head));
  SetAvailIndex(static_cast<uint16_t>(next_avail_ + 1));
}

void VirtqueueFake::SetAvailIndex(uint16_t index) {
  next_avail_ = index;
  memory_->WriteValue(At(driver_area(), 2), Le16(index));
}

void VirtqueueFake::SetAvailFlags(uint16_t flags) {
  memory_->WriteValue(driver_area(), Le16(flags));
}

void VirtqueueFake::SetUsedEvent(uint16_t event) {
  memory_->WriteValue(At(driver_area(), 4 + 2ULL * size_), Le16(event));
}

uint16_t VirtqueueFake::AvailEvent() const {
  return memory_->ReadValue<Le16>(At(device_area(), 4 + 8ULL * size_))->get();
}

uint16_t VirtqueueFake::UsedIndex() const {
  return memory_->ReadValue<Le16>(At(device_area(), 2))->get();
}

std::optional<uint16_t> VirtqueueFake::Add(std::span<const Buffer> buffers) {
  std::vector<uint16_t> chain;
  for (uint16_t i = 0; i < size_ && chain.size() < buffers.size(); ++i) {
    if (!busy_[i]) chain.push_back(i);
  }
  if (buffers.empty() || chain.size() < buffers.size()) return std::nullopt;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    uint16_t flags = buffers[i].writable ? kFakeWrite : 0;
    if (!last) flags |= kFakeNext;
    SetDescriptor(chain[i], buffers[i].address.value(), buffers[i].length, flags,
                  last ? 0 : chain[i + 1]);
    busy_[chain[i]] = true;
  }
  const uint16_t head = chain.front();
  chains_[head] = std::move(chain);
  MakeAvailable(head);
  return head;
}

std::optional<VirtqueueFake::Used> VirtqueueFake::TakeUsed() {
  if (next_used_ == UsedIndex()) return std::nullopt;
  const GuestAddress at = At(device_area(), 4 + 8ULL * (next_used_ % size_));
  const Used used{memory_->ReadValue<Le32>(at)->get(), memory_->ReadValue<Le32>(At(at, 4))->get()};
  ++next_used_;
  if (used.head < size_) {
    for (const uint16_t index : chains_[used.head]) busy_[index] = false;
    chains_[used.head].clear();
  }
  return used;
}

}  // namespace hearth::vmm
