// SPDX-License-Identifier: Apache-2.0
// Saving and restoring over hearth.vmm.v1, for tests and measurements.
#pragma once

#include <cstdint>
#include <vector>

#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::vmm::testing {

// Two memfds; the memory is sealed against every change.
struct SavedMachineFiles {
  UniqueFd state;
  UniqueFd memory;
  v1::MachineSaved sizes;
};

// Saves a paused machine; it stays paused.
absl::StatusOr<SavedMachineFiles> SaveMachine(VmmProcess& process);

// A request with its descriptors.
struct PreparedRequest {
  v1::Request request;
  std::vector<UniqueFd> fds;

  // Appends a descriptor and returns its index.
  uint32_t Add(UniqueFd fd);
};

// A RestoreMachine with the two files. The caller adds console, disks, vsock (like the saved
// machine's), the working set, and says whether to resume.
PreparedRequest MakeRestoreRequest(const SavedMachineFiles& files);

// What a restored machine has used since; opens /proc/PID/pagemap of its VMM.
absl::StatusOr<v1::WorkingSet> FetchWorkingSet(VmmProcess& process);

}  // namespace hearth::vmm::testing
