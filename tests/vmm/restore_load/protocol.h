// SPDX-License-Identifier: Apache-2.0
// What the guest and the host of tests/vmm/restore-under-load agree on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hearth::vmm::testing {

inline constexpr uint32_t kLoadCpus = 4;
inline constexpr uint32_t kLoadEchoPort = 1024;    // The guest connects, the host echoes.
inline constexpr uint32_t kLoadReportPort = 1025;  // The guest connects and reports.
inline constexpr uint32_t kLoadGuestPort = 5000;   // The host connects, the guest echoes.
inline constexpr uint32_t kLoadEchoStreams = 2;    // In each direction.
inline constexpr size_t kLoadChunkBytes = 8192;

// Each writer has its own area of the disk; write n goes to slot n % kLoadSlots.
inline constexpr uint32_t kLoadWriters = 2;
inline constexpr uint64_t kLoadSlots = 64;
inline constexpr size_t kLoadBlockBytes = 4096;
inline constexpr uint64_t kLoadDiskBytes = kLoadWriters * kLoadSlots * kLoadBlockBytes;

// A block as write `sequence` (from 1) of a writer leaves it.
struct LoadBlock {
  uint64_t writer = 0;
  uint64_t sequence = 0;
  std::array<uint64_t, kLoadBlockBytes / 8 - 2> fill{};

  static LoadBlock Make(uint64_t writer, uint64_t sequence) {
    LoadBlock block{writer, sequence, {}};
    for (size_t i = 0; i < block.fill.size(); ++i) block.fill[i] = Word(writer, sequence, i);
    return block;
  }
  bool IsWhole() const {
    for (size_t i = 0; i < fill.size(); ++i) {
      if (fill[i] != Word(writer, sequence, i)) return false;
    }
    return true;
  }

 private:
  static uint64_t Word(uint64_t writer, uint64_t sequence, size_t index) {
    return (sequence * 1000003 + writer) * 0x9e3779b97f4a7c15 + index;
  }
};
static_assert(sizeof(LoadBlock) == kLoadBlockBytes);

// Byte `offset` of an echoed stream.
inline uint8_t LoadByte(uint64_t offset) {
  return static_cast<uint8_t>(offset * 131 + (offset >> 8) * 7);
}

// What the guest has done since it booted. Everything only grows.
struct LoadReport {
  uint64_t monotonic_ns = 0;
  uint64_t timer_ticks = 0;
  std::array<uint64_t, kLoadCpus> cpu_rounds{};  // One thread on each vCPU.
  std::array<uint64_t, kLoadWriters> written{};  // Writes that are on disk, says fdatasync.
  uint64_t verified_blocks = 0;
  uint64_t echoed_bytes = 0;     // Came back right on the guest's streams.
  uint64_t resets = 0;           // Connections that ended by ECONNRESET.
  uint64_t longest_tick_ns = 0;  // Between two ticks of a timer of 20 ms.
  uint64_t finished = 0;         // All blocks were read again, at the end.
  uint64_t failures = 0;         // Whatever must not happen; the console says what.
};

}  // namespace hearth::vmm::testing
