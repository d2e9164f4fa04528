// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <algorithm>

namespace hearth::vmm {

void GuestSpan::CopyOut(size_t offset, std::span<uint8_t> to) const {
  std::memcpy(to.data(), Checked(offset, to.size()), to.size());
  ForbidSecondFetch();
}

void GuestSpan::CopyIn(size_t offset, std::span<const uint8_t> from) const {
  std::memcpy(Checked(offset, from.size()), from.data(), from.size());
}

uint16_t GuestSpan::LoadAcquire16(size_t offset) const {
  // The one place that treats guest memory as an object, for a single atomic access.
  auto* index = reinterpret_cast<uint16_t*>(Checked(offset, sizeof(uint16_t)));
  return std::atomic_ref<uint16_t>(*index).load(std::memory_order_acquire);
}

void GuestSpan::StoreRelease16(size_t offset, uint16_t value) const {
  auto* index = reinterpret_cast<uint16_t*>(Checked(offset, sizeof(uint16_t)));
  std::atomic_ref<uint16_t>(*index).store(value, std::memory_order_release);
}

absl::StatusOr<GuestMemory> GuestMemory::CreateAnonymous(std::span<const Range> ranges) {
  std::vector<Region> regions;
  regions.reserve(ranges.size());
  for (const Range& range : ranges) {
    ASSIGN_OR_RETURN(MappedRegion mapping, MappedRegion::Anonymous(range.size_bytes));
    regions.push_back({range.start, std::move(mapping)});
  }
  return Create(std::move(regions));
}

absl::StatusOr<GuestMemory> GuestMemory::Create(std::vector<Region> regions) {
  if (regions.empty() || regions.size() > kMaxMemoryRegions) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest memory needs 1 to ", kMaxMemoryRegions, " regions"));
  }
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.start < b.start; });
  GuestAddress free_from;
  for (const Region& region : regions) {
    const auto end = region.start.CheckedAdd(region.mapping.size_bytes());
    if (!end || region.mapping.size_bytes() == 0 || region.start < free_from) {
      return absl::InvalidArgumentError("guest memory regions are empty, wrap or overlap");
    }
    free_from = *end;
  }
  return GuestMemory(std::move(regions));
}

uint64_t GuestMemory::size_bytes() const {
  uint64_t total = 0;
  for (const Region& region : regions_) total += region.mapping.size_bytes();
  return total;
}

std::optional<GuestSpan> GuestMemory::Span(GuestAddress address, uint64_t size) const {
  if (size == 0) return std::nullopt;
  for (const Region& region : regions_) {
    if (address < region.start) return std::nullopt;
    const uint64_t offset = address.value() - region.start.value();
    const uint64_t region_size = region.mapping.size_bytes();
    if (offset >= region_size) continue;
    if (size > region_size - offset) return std::nullopt;
    return GuestSpan(region.mapping.data() + offset, size);
  }
  return std::nullopt;
}

bool GuestMemory::Read(GuestAddress address, std::span<uint8_t> to) const {
  const auto span = Span(address, to.size());
  if (span) span->CopyOut(0, to);
  return span.has_value();
}

bool GuestMemory::Write(GuestAddress address, std::span<const uint8_t> from) const {
  const auto span = Span(address, from.size());
  if (span) span->CopyIn(0, from);
  return span.has_value();
}

}  // namespace hearth::vmm
