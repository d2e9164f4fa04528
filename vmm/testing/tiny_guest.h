// SPDX-License-Identifier: Apache-2.0
// Guests of a few instructions, as PVH kernels: for tests that need a guest, not an operating
// system, and for measuring what a VMM itself costs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "vmm/base/unique_fd.h"

namespace hearth::vmm::testing {

inline constexpr uint32_t kCodeAddress = 0x100000;

// A segment of a kernel file: `bytes` go to `address`.
struct GuestSegment {
  uint32_t address = 0;
  std::string bytes;
};

// An ELF64 file with the segments and a PVH note that names `entry`.
std::string MakeKernel(const std::vector<GuestSegment>& segments, uint32_t entry = kCodeAddress);

// The bytes as an anonymous file, opened for reading and writing.
UniqueFd MemoryFile(absl::string_view bytes);

// 32-bit code for kCodeAddress, without a stack. Each starts with interrupts off, in
// protected mode without paging, with EBX at hvm_start_info.

// Writes one '!' to the serial port and resets the machine.
std::string DoNothingCode();
// Writes `text` to the serial port and resets the machine.
std::string HelloCode(absl::string_view text);
// Adds one to the 32-bit word at kCounterAddress, writes a byte to port 0x80 and begins again.
std::string CountingCode();
inline constexpr uint32_t kCounterAddress = 0x200000;
// The same without the port: it never leaves the guest by itself.
std::string SpinningCode();
// Halts for ever.
std::string HaltCode();
// Runs into an undefined instruction without an interrupt table.
std::string TripleFaultCode();
// SpinningCode() that uses kvm-clock, and resets the machine once that tells it that it was paused.
std::string PauseNoticingCode();

// MakeKernel of one such code.
std::string KernelOf(std::string code);

}  // namespace hearth::vmm::testing
