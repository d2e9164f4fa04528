// SPDX-License-Identifier: Apache-2.0
// The guest's file systems. The agent's own image is the kernel's root, read-only, and has the
// empty directories dev, proc, sys, run, mnt and runtime:
//
//   /runtime        the runtime's image, read-only
//   /mnt            a size-limited tmpfs: upper/ and work/ of the overlay, shm/
//   /run/root       user code's root: an overlay of /mnt/upper over /runtime, with
//     var/task      the function's code, read-only
//     dev           a small read-only tmpfs of harmless devices
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

inline constexpr char kCgroupMount[] = "/sys/fs/cgroup";
inline constexpr char kUserRoot[] = "/run/root";

// proc, sys, dev, run and cgroup2, where the kernel has not mounted them.
absl::Status MountSystem();

// The /dev path of the virtio block device with this serial number. NOT_FOUND names what there is.
absl::StatusOr<std::string> FindDisk(absl::string_view serial,
                                     const std::string& sys_block = "/sys/block");

// Builds user code's root. `writable_bytes` limits all that it can write outside of pipes.
absl::Status MountUserRoot(const agent::v1::ConfigureInstance& configure, uint64_t writable_bytes);

// Mounts the file over `target`, which is made if it does not exist.
absl::Status MountFile(const std::string& file, const std::string& target);

}  // namespace hearth::agent
