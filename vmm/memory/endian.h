// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

namespace hearth::vmm {

// Little-endian integers as they stand in structures shared with the guest. Hearth runs on x86-64
// only, so the bytes need no swapping; the type keeps wire fields from mixing with plain numbers.
static_assert(std::endian::native == std::endian::little);

template <typename T>
class LittleEndian {
 public:
  constexpr LittleEndian() = default;
  constexpr LittleEndian(T value) : value_(value) {}  // NOLINT(google-explicit-constructor)
  constexpr T get() const { return value_; }

 private:
  T value_ = 0;
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;
static_assert(sizeof(Le16) == 2 && sizeof(Le32) == 4 && sizeof(Le64) == 8);

}  // namespace hearth::vmm
