// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <algorithm>

namespace hearth::vmm {

absl::Status Bus::Insert(uint64_t base, uint64_t size, BusDevice* device) {
  if (size == 0 || base + size < base) {
    return absl::InvalidArgumentError(
        absl::StrCat("a device range of ", size, " bytes at ", base, " is empty or wraps"));
  }
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), base,
                                     [](uint64_t a, const Range& range) { return a < range.base; });
  const bool meets_next = next != ranges_.end() && next->base < base + size;
  const bool meets_previous =
      next != ranges_.begin() && std::prev(next)->base + std::prev(next)->size > base;
  if (meets_next || meets_previous) {
    return absl::AlreadyExistsError(
        absl::StrCat("a device range of ", size, " bytes at ", base, " overlaps another"));
  }
  ranges_.insert(next, Range{base, size, device});
  return absl::OkStatus();
}

const Bus::Range* Bus::Find(uint64_t address, uint64_t size) const {
  const auto next = std::upper_bound(ranges_.begin(), ranges_.end(), address,
                                     [](uint64_t a, const Range& range) { return a < range.base; });
  if (next == ranges_.begin()) return nullptr;
  const Range& range = *std::prev(next);
  const uint64_t offset = address - range.base;
  // Written so that nothing wraps: offset first, then what is left behind it.
  if (offset >= range.size || range.size - offset < size) return nullptr;
  return &range;
}

bool Bus::Read(uint64_t address, std::span<uint8_t> data) const {
  const Range* range = Find(address, data.size());
  if (range == nullptr) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    return false;
  }
  range->device->Read(address - range->base, data);
  return true;
}

bool Bus::Write(uint64_t address, std::span<const uint8_t> data) const {
  const Range* range = Find(address, data.size());
  if (range == nullptr) return false;
  range->device->Write(address - range->base, data);
  return true;
}

}  // namespace hearth::vmm
