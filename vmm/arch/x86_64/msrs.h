// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace hearth::vmm::x86_64 {

// The MSRs that make up a guest's state, in the order in which they are written: of the kernel's
// own list (KVM_GET_MSR_INDEX_LIST) those that a guest of ours can use, and what that list leaves
// out. Some may not exist for a given guest.
std::vector<uint32_t> MsrsToSave(const std::vector<uint32_t>& kernel_list);

}  // namespace hearth::vmm::x86_64
