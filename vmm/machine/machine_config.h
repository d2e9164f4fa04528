// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm/base/unique_fd.h"
#include "vmm/snapshot/paged_memory.h"
#include "vmm/snapshot/saved_state.h"
#include "vmm/snapshot/working_set.h"

namespace hearth::vmm {

struct DiskConfig {
  UniqueFd file;
  bool read_only = false;
  std::string serial;
};

struct VsockConfig {
  uint32_t guest_cid = 0;
  std::vector<uint32_t> host_ports;  // That the guest may connect to.
};

// What a machine is made of; its resources are open descriptors. CreateMachine of hearth.vmm.v1 as
// a plain value, within the limits of limits.h.
struct MachineConfig {
  uint32_t memory_mib = 0;
  uint32_t vcpu_count = 1;
  UniqueFd kernel;
  UniqueFd initrd;           // May be none.
  std::string command_line;  // Without the parameters of our devices.
  std::vector<DiskConfig> disks;
  std::optional<VsockConfig> vsock;
  bool entropy = false;
  UniqueFd console;  // May be none.
  uint32_t console_bytes_per_second = 0;
};

// A machine to be restored. RestoreMachine of hearth.vmm.v1 as a plain value.
struct RestoreConfig {
  SavedMachineState state;
  UniqueFd memory;
  std::vector<PageRun> working_set;
  std::optional<Pager> pager;  // Instead of both.
  MachineConfig machine;  // Without a kernel; memory, vCPUs and entropy are the saved machine's.
};

}  // namespace hearth::vmm
