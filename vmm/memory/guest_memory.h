// SPDX-License-Identifier: Apache-2.0
// The guest's RAM as the VMM sees it.
//
// Every byte of it may change at any moment, for the guest's CPUs run beside us. So nobody gets a
// T* or T& into it: values are copied out once and the copy is judged. A range exists only after
// validation, as a GuestSpan; system calls read and write through its iovec.
//
// Threads: immutable after Create(), so it may be used from any thread.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "vmm/memory/guest_address.h"
#include "vmm/memory/mapped_region.h"

namespace hearth::vmm {

// The most regions a machine has: RAM below the MMIO hole and RAM above 4 GiB, and some to spare.
inline constexpr size_t kMaxMemoryRegions = 8;

// After copying out of guest memory: keeps the compiler from reading the original again later.
inline void ForbidSecondFetch() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// A validated range of guest memory, valid for as long as the GuestMemory it came from. Offsets
// are ours, not the guest's: one outside the range is a bug of ours and aborts.
class GuestSpan {
 public:
  GuestSpan() = default;

  size_t size() const { return size_; }
  iovec iov() const { return {data_, size_}; }

  void CopyOut(size_t offset, std::span<uint8_t> to) const;
  void CopyIn(size_t offset, std::span<const uint8_t> from) const;

  template <typename T>
  T Load(size_t offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    CopyOut(offset, {reinterpret_cast<uint8_t*>(&value), sizeof(value)});
    return value;
  }
  template <typename T>
  void Store(size_t offset, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    CopyIn(offset, {reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }

  // One 16-bit access, as the ring indices need; `offset` leaves it aligned.
  uint16_t LoadAcquire16(size_t offset) const;
  void StoreRelease16(size_t offset, uint16_t value) const;

 private:
  friend class GuestMemory;
  friend class GuestBuffer;
  GuestSpan(uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t* Checked(size_t offset, size_t bytes) const {
    if (offset > size_ || bytes > size_ - offset) __builtin_trap();
    return data_ + offset;
  }

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

class GuestMemory {
 public:
  struct Range {
    GuestAddress start;
    uint64_t size_bytes = 0;  // A positive multiple of the page size.
  };
  struct Region {
    GuestAddress start;
    MappedRegion mapping;
  };

  // Anonymous RAM in the given ranges, which must not overlap.
  static absl::StatusOr<GuestMemory> CreateAnonymous(std::span<const Range> ranges);
  // Takes over mappings made elsewhere.
  static absl::StatusOr<GuestMemory> Create(std::vector<Region> regions);

  // `keeper` is let go of just before the memory is unmapped: for what works on the mappings.
  void KeepUntilUnmapped(std::shared_ptr<void> keeper) { keeper_ = std::move(keeper); }

  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = default;

  // Ascending by address. For KVM_SET_USER_MEMORY_REGION.
  std::span<const Region> regions() const { return regions_; }
  uint64_t size_bytes() const;

  // Nothing unless all of [address, address + size) is RAM of one region; `size` 0 is nothing too.
  std::optional<GuestSpan> Span(GuestAddress address, uint64_t size) const;

  // Copies; false, with nothing copied, when the range is not all RAM.
  bool Read(GuestAddress address, std::span<uint8_t> to) const;
  bool Write(GuestAddress address, std::span<const uint8_t> from) const;

  template <typename T>
  std::optional<T> ReadValue(GuestAddress address) const {
    const auto span = Span(address, sizeof(T));
    if (!span) return std::nullopt;
    return span->Load<T>(0);
  }
  template <typename T>
  bool WriteValue(GuestAddress address, const T& value) const {
    const auto span = Span(address, sizeof(T));
    if (span) span->Store(0, value);
    return span.has_value();
  }

 private:
  explicit GuestMemory(std::vector<Region> regions) : regions_(std::move(regions)) {}

  std::vector<Region> regions_;
  std::shared_ptr<void> keeper_;  // Last, so that it goes first.
};

}  // namespace hearth::vmm
