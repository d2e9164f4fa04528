// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/machine/machine_config.h"

namespace hearth::vmm {

// The descriptors that came with a frame, handed out to the fields that name them: each index once.
class FrameFds {
 public:
  explicit FrameFds(std::vector<UniqueFd> fds) : fds_(std::move(fds)) {}

  // `field` names the field in the error. INVALID_ARGUMENT for an index that does not exist or was
  // taken before.
  absl::StatusOr<UniqueFd> Take(uint32_t index, absl::string_view field);

 private:
  std::vector<UniqueFd> fds_;
};

// Checks a request against limits.h and against this host's memory, and takes its descriptors.
absl::StatusOr<MachineConfig> ParseCreateRequest(const ::hearth::vmm::v1::CreateMachine& request,
                                                 FrameFds& fds);

// The same for a machine to be restored: reads and parses its state, takes the working set. The
// memory's seals and size are checked when it is mapped.
absl::StatusOr<RestoreConfig> ParseRestoreRequest(const ::hearth::vmm::v1::RestoreMachine& request,
                                                  FrameFds& fds);

}  // namespace hearth::vmm
