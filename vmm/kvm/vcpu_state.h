// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/kvm/kvm_headers.h"

namespace hearth::vmm {

inline constexpr uint32_t kMsrTsc = 0x10;
inline constexpr uint32_t kMsrTscDeadline = 0x6e0;
// KVM takes at most this many MSRs in one call (its MAX_IO_MSRS).
inline constexpr size_t kMaxMsrsPerCall = 256;

// All there is to a vCPU but its CPUID, as the kernel's ABI has it.
struct VcpuState {
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::vector<uint8_t> xsave;  // struct kvm_xsave, or longer (KVM_CAP_XSAVE2).
  kvm_xcrs xcrs{};
  kvm_debugregs debug_regs{};
  kvm_lapic_state lapic{};
  kvm_vcpu_events events{};
  std::vector<kvm_msr_entry> msrs;  // In the order in which they are written.

  // The value of an MSR, if there is one.
  std::optional<uint64_t> Msr(uint32_t index) const;
};

}  // namespace hearth::vmm
