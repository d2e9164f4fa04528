// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/kvm/kvm_headers.h"

namespace hearth::vmm::x86_64 {

// The MSRs that make up a guest's state, in the order in which they are written: of the kernel's
// own list (KVM_GET_MSR_INDEX_LIST) those that a guest of ours can use, and what that list leaves
// out. Some may not exist for a given guest.
std::vector<uint32_t> MsrsToSave(const std::vector<uint32_t>& kernel_list);

// INVALID_ARGUMENT names an MSR of `saved` that MsrsToSave() leaves out.
absl::Status CheckMsrs(std::span<const kvm_msr_entry> saved);

}  // namespace hearth::vmm::x86_64
