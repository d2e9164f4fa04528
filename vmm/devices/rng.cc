// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

namespace hearth::vmm {
namespace {

constexpr std::array<uint16_t, 1> kRngQueueSizes = {kRngQueueSize};

// Fills the front of `buffer` and returns how much it was.
size_t Fill(GuestBuffer& buffer) {
  size_t filled = 0;
  while (buffer.size() != 0 && filled < kRngMaxRequestBytes) {
    const iovec& first = buffer.iov().front();
    const size_t wanted = std::min(first.iov_len, kRngMaxRequestBytes - filled);
    const ssize_t got = getrandom(first.iov_base, wanted, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    buffer.Skip(static_cast<uint64_t>(got));
    filled += static_cast<size_t>(got);
  }
  return filled;
}

}  // namespace

std::span<const uint16_t> Rng::queue_max_sizes() const { return kRngQueueSizes; }

void Rng::ReadConfig(uint64_t offset, std::span<uint8_t> data) const {
  CopyConfig({}, offset, data);
}

void Rng::ProcessQueue(uint16_t index) {
  Virtqueue& queue = context_->queue(index);
  // One round of the queue at most, then others have their turn.
  for (size_t i = 0; i < kRngQueueSize; ++i) {
    const Virtqueue::PopResult result = queue.Pop(chain_);
    if (result == Virtqueue::PopResult::kBroken) {
      context_->FailDevice(queue.broken_reason());
      return;
    }
    if (result == Virtqueue::PopResult::kEmpty) break;
    if (chain_.writable().size() == 0) {
      context_->FailDevice("rng request with nothing to write to");
      return;
    }
    const size_t filled = Fill(chain_.writable());
    queue.Push(chain_, static_cast<uint32_t>(filled));
  }
  context_->SignalUsed(index);
  if (queue.EnableNotification()) context_->ScheduleQueue(index);
}

}  // namespace hearth::vmm
