// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace hearth::vmm {

// Little-endian integers as they stand in structures shared with the guest: bytes, so they have no
// alignment and structures of them no padding. Hearth runs on x86-64 only, so nothing is swapped;
// the type keeps wire fields from mixing with plain numbers.
static_assert(std::endian::native == std::endian::little);

template <typename T>
class LittleEndian {
 public:
  constexpr LittleEndian() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): wire structures are filled with plain numbers.
  constexpr LittleEndian(T value) : bytes_(std::bit_cast<Bytes>(value)) {}
  T get() const {
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(value));
    return value;
  }

 private:
  using Bytes = std::array<uint8_t, sizeof(T)>;
  Bytes bytes_{};
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;
static_assert(sizeof(Le16) == 2 && sizeof(Le32) == 4 && sizeof(Le64) == 8 && alignof(Le64) == 1);

}  // namespace hearth::vmm
