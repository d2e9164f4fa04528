// SPDX-License-Identifier: Apache-2.0
// Where things lie in a machine's guest-physical address space and on its interrupt controller.
// docs/vmm.md draws the map.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace hearth::vmm::x86_64 {

// Boot data, below the kernel. Linux copies what it needs before it reuses these pages.
inline constexpr uint64_t kStartInfoAddress = 0x6000;
inline constexpr uint64_t kMemoryMapAddress = 0x7000;
inline constexpr uint64_t kCommandLineAddress = 0x20000;
inline constexpr uint64_t kMaxCommandLineBytes = 2048;  // Linux's COMMAND_LINE_SIZE, with the NUL.

// The last KiB of the 639 KiB of base memory: one of the three places where MultiProcessor
// Specification 1.4, section 4, lets a kernel look for its floating pointer.
inline constexpr uint64_t kMpTableAddress = 0x9fc00;
inline constexpr uint64_t kMpTableBytes = 0x400;

// Kernel segments lie at or above this.
inline constexpr uint64_t kHighMemoryStart = 0x100000;

// RAM below the hole starts at 0; what does not fit continues at 4 GiB.
inline constexpr uint64_t kMmioHoleStart = 0xc000'0000;
inline constexpr uint64_t kMmioHoleEnd = 0x1'0000'0000;

// One page for each virtio device, upwards.
inline constexpr uint64_t kVirtioMmioBase = 0xd000'0000;
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr uint32_t kFirstVirtioIrq = 5;
inline constexpr uint32_t kIrqCount = 24;  // Pins of the IOAPIC.

inline constexpr uint64_t kIoApicAddress = 0xfec0'0000;
inline constexpr uint64_t kLocalApicAddress = 0xfee0'0000;
inline constexpr uint32_t kTssAddress = 0xfffb'd000;  // Three pages for KVM on Intel.

inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kSerialPortCount = 8;
inline constexpr uint32_t kSerialIrq = 4;
inline constexpr uint16_t kI8042Port = 0x60;
inline constexpr uint16_t kI8042PortCount = 5;

// The RAM ranges of a machine with `memory_bytes`, a multiple of 1 MiB.
inline std::vector<GuestMemory::Range> RamRanges(uint64_t memory_bytes) {
  if (memory_bytes <= kMmioHoleStart) return {{GuestAddress(0), memory_bytes}};
  return {{GuestAddress(0), kMmioHoleStart},
          {GuestAddress(kMmioHoleEnd), memory_bytes - kMmioHoleStart}};
}

}  // namespace hearth::vmm::x86_64
