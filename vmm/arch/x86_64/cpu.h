// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/kvm/vcpu.h"

namespace hearth::vmm::x86_64 {

// Turns what the host supports into what the guest is shown: one processor with one thread, under
// a hypervisor, without what we do not offer (nested virtualisation, performance counters) and
// with only those KVM paravirtual features that our machine serves. `tsc_deadline`: the in-kernel
// LAPIC has the TSC deadline timer, which KVM_GET_SUPPORTED_CPUID does not report.
void AdaptCpuid(std::vector<kvm_cpuid_entry2>& entries, bool tsc_deadline);

// Puts a fresh vCPU at a PVH entry point: 32-bit protected mode without paging, flat segments,
// interrupts off, EBX = the address of hvm_start_info (Xen's PVH boot ABI).
absl::Status SetPvhEntry(Vcpu& vcpu, uint32_t entry, uint32_t start_info_address);

}  // namespace hearth::vmm::x86_64
