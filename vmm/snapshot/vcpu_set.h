// SPDX-License-Identifier: Apache-2.0
// All vCPUs of a machine to values and back: what concerns more than one of them is here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/snapshot/saved_state.h"

namespace hearth::vmm {

// The vCPUs are paused. Their TSCs are those of one moment, so that they keep their distance. The
// caller adds the CPUIDs.
absl::StatusOr<std::vector<SavedVcpuState>> SaveVcpus(std::span<Vcpu* const> vcpus,
                                                      std::span<const uint32_t> msr_indices,
                                                      size_t xsave_bytes);

// Into fresh vCPUs, as many as there are states; the VM has its interrupt controller. Each TSC goes
// on from where it stood. FAILED_PRECONDITION or the status of the call that KVM refused.
absl::Status RestoreVcpus(std::span<Vcpu> vcpus, std::span<const SavedVcpuState> saved,
                          size_t xsave_bytes);
// After RestoreVcpus() and the VM's own state.
absl::Status StartDeadlineTimers(std::span<Vcpu> vcpus, std::span<const SavedVcpuState> saved);

}  // namespace hearth::vmm
