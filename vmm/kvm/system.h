// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/kvm/kvm_headers.h"
#include "vmm/kvm/vm.h"

namespace hearth::vmm {

// An open /dev/kvm. Immutable after Create, so any thread may use it.
class System {
 public:
  // FAILED_PRECONDITION when `kvm` is not a KVM device or lacks what a machine needs.
  static absl::StatusOr<System> Create(UniqueFd kvm);

  // A VM fd works only in the process that made it. Retries the EINTR that KVM_CREATE_VM returns
  // now and then when a signal is pending.
  absl::StatusOr<Vm> CreateVm() const;

  // What the host can offer a guest (KVM_GET_SUPPORTED_CPUID).
  absl::StatusOr<std::vector<kvm_cpuid_entry2>> SupportedCpuid() const;

  // The MSRs whose values KVM keeps for a guest (KVM_GET_MSR_INDEX_LIST); not all of them are
  // (arch/x86_64/msrs.h).
  absl::StatusOr<std::vector<uint32_t>> MsrIndexList() const;

  bool HasExtension(int capability) const;

 private:
  System(UniqueFd kvm, size_t run_bytes) : kvm_(std::move(kvm)), run_bytes_(run_bytes) {}

  UniqueFd kvm_;
  size_t run_bytes_;  // The size of a vCPU's shared kvm_run area.
};

}  // namespace hearth::vmm
