// SPDX-License-Identifier: Apache-2.0
// A saved machine as plain values, and its bytes (hearth.vmm.v1.SavedMachine). Needs no KVM.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hearth/vmm/v1/state.pb.h"
#include "vmm/base/status.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/kvm/vm.h"
#include "vmm/snapshot/memory_file.h"

namespace hearth::vmm {

struct SavedVcpuState {
  VcpuState vcpu;
  uint32_t tsc_khz = 0;
  std::vector<kvm_cpuid_entry2> cpuid;
};

struct SavedMachineState {
  uint32_t memory_mib = 0;
  std::vector<SavedVcpuState> vcpus;  // 1 to kMaxVcpus.
  VmState vm;
  v1::SavedDevices devices;      // Judged by the devices.
  std::vector<PageRange> holes;  // Of the memory file; none: they are to be looked for.
};

std::string SerializeMachineState(const SavedMachineState& state);

// Trusts nothing in `bytes`: what it returns is within limits.h, every struct has the length that
// the kernel's ABI gives it, and each vCPU has a TSC. Whether KVM takes the values is KVM's to say.
// INVALID_ARGUMENT for what is no state, FAILED_PRECONDITION for a version of another VMM.
absl::StatusOr<SavedMachineState> ParseMachineState(absl::string_view bytes);

}  // namespace hearth::vmm
