// SPDX-License-Identifier: Apache-2.0
// A guest that keeps all that a snapshot has to keep in use, and faults when it finds any of it
// changed: registers, a device's register, a timer's interrupts, the TSC, other processors.
#pragma once

#include <cstdint>
#include <string>

namespace hearth::vmm::testing {

struct BusyOptions {
  bool deadline_timer = false;  // Ticks by the TSC deadline timer; else by the periodic one.
  bool halts = false;           // Halts until the next tick in each round.
};

// For a machine with a virtio device, of 4 MiB or more and 1 to 8 vCPUs. vCPU 0 counts rounds and
// ticks; in each round it reads the first device's magic number, writes to port 0x80, and compares
// its registers and the TSC with what they were: a difference is a triple fault. It starts all
// other vCPUs; each counts in a word of its own, by the APIC id that CPUID tells it.
std::string BusyCode(const BusyOptions& options = {});
inline constexpr uint32_t kBusyRounds = 0x200000;
inline constexpr uint32_t kBusyTicks = 0x200004;
inline constexpr uint32_t kBusyOthers = 0x9000;  // Plus four times the APIC id.

// Sends itself an interrupt while it takes none, counts rounds at kBusyRounds until the word at
// kPendingGo is not 0, and then lets the interrupt come, which writes 1 to kPendingDone.
std::string PendingInterruptCode();
inline constexpr uint32_t kPendingGo = 0x200008;
inline constexpr uint32_t kPendingDone = 0x20000c;

}  // namespace hearth::vmm::testing
