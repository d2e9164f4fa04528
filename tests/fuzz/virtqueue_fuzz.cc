// SPDX-License-Identifier: Apache-2.0
// A virtqueue whose rings and descriptors are the fuzzer's bytes: whatever Pop() yields lies in RAM
// and is no longer than a queue.
#include <fuzzer/FuzzedDataProvider.h>

#include <array>
#include <cstdlib>

#include "vmm/virtio/virtqueue.h"

using namespace hearth::vmm;

namespace {

constexpr uint64_t kRamBytes = 64 * 1024;

void CheckBuffer(const GuestMemory& memory, const GuestBuffer& buffer) {
  const uint8_t* low = memory.regions()[0].mapping.data();
  uint64_t total = 0;
  for (const iovec& range : buffer.iov()) {
    const auto* start = static_cast<const uint8_t*>(range.iov_base);
    if (start < low || range.iov_len == 0 || range.iov_len > kRamBytes) abort();
    if (start + range.iov_len > low + kRamBytes) abort();
    total += range.iov_len;
  }
  if (total != buffer.size() || buffer.iov().size() > kMaxQueueSize) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const std::array<GuestMemory::Range, 1> ranges = {{{GuestAddress(0), kRamBytes}}};
  static const GuestMemory memory = *GuestMemory::CreateAnonymous(ranges);
  static DescriptorChain chain;
  VirtqueueState state;
  state.size = input.ConsumeBool() ? 8 : input.ConsumeIntegral<uint16_t>();
  state.event_idx = input.ConsumeBool();
  state.descriptors = GuestAddress(input.ConsumeIntegral<uint16_t>() & 0xfff0);
  state.driver_area = GuestAddress(input.ConsumeIntegral<uint16_t>());
  state.device_area = GuestAddress(input.ConsumeIntegral<uint16_t>());
  state.next_avail = input.ConsumeIntegral<uint16_t>();
  state.next_used = input.ConsumeIntegral<uint16_t>();
  const size_t shift = input.ConsumeIntegral<uint8_t>();
  const auto content = input.ConsumeRemainingBytes<uint8_t>();
  memory.Write(GuestAddress(state.descriptors.value() + shift), content);
  Virtqueue queue;
  if (!queue.Activate(memory, state).empty()) return 0;
  for (int i = 0; i < 1000; ++i) {
    if (queue.Pop(chain) != Virtqueue::PopResult::kChain) break;
    CheckBuffer(memory, chain.readable());
    CheckBuffer(memory, chain.writable());
    if (i == 3) {
      queue.UndoPop();
      continue;
    }
    queue.Push(chain, static_cast<uint32_t>(i));
    queue.TakeInterruptNeeded();
    queue.EnableNotification();
  }
  return 0;
}
