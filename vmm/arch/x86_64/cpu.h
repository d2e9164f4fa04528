// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/kvm/vcpu.h"

namespace hearth::vmm::x86_64 {

// Turns what the host supports into what the guest is shown: one package of `vcpu_count` cores with
// one thread each, under a hypervisor, without what we do not offer (nested virtualisation,
// performance counters, AMX) and with only those KVM paravirtual features that our machine serves.
// `tsc_deadline`: the in-kernel LAPIC has the TSC deadline timer, which KVM_GET_SUPPORTED_CPUID
// does not report. The result is that of vCPU 0.
void AdaptCpuid(std::vector<kvm_cpuid_entry2>& entries, bool tsc_deadline, uint32_t vcpu_count);

// Turns vCPU 0's CPUID into that of vCPU `id`, whose APIC id is the same number.
void SetCpuidApicId(std::vector<kvm_cpuid_entry2>& entries, uint32_t id);

// Whether a guest that was shown `saved` can go on where AdaptCpuid() yields `offered`: the same
// vendor, no feature that is missing here. FAILED_PRECONDITION names the leaf, the register and the
// bits.
absl::Status CheckCpuidFits(const std::vector<kvm_cpuid_entry2>& saved,
                            const std::vector<kvm_cpuid_entry2>& offered);

// Whether `saved` can be what AdaptCpuid() and SetCpuidApicId() made for vCPU `id`: whoever wrote
// the state shows the guest nothing that they take away. INVALID_ARGUMENT names the leaf.
absl::Status CheckCpuidAdapted(const std::vector<kvm_cpuid_entry2>& saved, uint32_t id,
                               uint32_t vcpu_count);

// Puts a fresh vCPU at a PVH entry point: 32-bit protected mode without paging, flat segments,
// interrupts off, EBX = the address of hvm_start_info (Xen's PVH boot ABI).
absl::Status SetPvhEntry(Vcpu& vcpu, uint32_t entry, uint32_t start_info_address);

}  // namespace hearth::vmm::x86_64
