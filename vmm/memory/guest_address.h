// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace hearth::vmm {

// A guest physical address. Arithmetic is checked: an address that a hostile driver chose near
// 2^64 yields nothing instead of wrapping to a low one.
class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  constexpr explicit GuestAddress(uint64_t value) : value_(value) {}

  constexpr uint64_t value() const { return value_; }
  constexpr std::optional<GuestAddress> CheckedAdd(uint64_t bytes) const {
    if (bytes > UINT64_MAX - value_) return std::nullopt;
    return GuestAddress(value_ + bytes);
  }
  // `alignment` is a power of two.
  constexpr bool IsAligned(uint64_t alignment) const { return (value_ & (alignment - 1)) == 0; }

  constexpr auto operator<=>(const GuestAddress&) const = default;

 private:
  uint64_t value_ = 0;
};

}  // namespace hearth::vmm
