// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

// Sends the MemoryOffer of hearth.vmm.v1 with the userfaultfd. The socket stays the caller's. Waits
// for a few seconds at most.
absl::Status OfferMemory(const UniqueFd& socket, UniqueFd userfaultfd, const GuestMemory& memory);

}  // namespace hearth::vmm
