// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::launcher {

// The cgroups (version 2) of the VMMs, below one folder that is this launcher's alone.
class Cgroups {
 public:
  // Makes the folder `name` below the cgroup v2 mount, and ends and removes what an earlier
  // launcher left in it. Null when the host has no cgroup v2 with the controllers needed;
  // ALREADY_EXISTS when another launcher uses the folder.
  static absl::StatusOr<std::unique_ptr<Cgroups>> Create(const std::string& name);
  ~Cgroups();

  // A cgroup for a VMM whose guest has so much memory; 0: it has no guest yet, nor a limit. The
  // descriptor is of its folder.
  absl::StatusOr<UniqueFd> Make(uint64_t number, uint64_t memory_mib);
  absl::Status SetMemory(uint64_t number, uint64_t memory_mib);
  // To be called when all of its processes were reaped.
  void Remove(uint64_t number);

 private:
  Cgroups(UniqueFd parent, UniqueFd root, std::string name)
      : parent_(std::move(parent)), root_(std::move(root)), name_(std::move(name)) {}
  absl::Status RemoveLeftovers();

  UniqueFd parent_;
  UniqueFd root_;
  const std::string name_;
  std::set<std::string> stuck_;  // Could not be removed yet.
};

}  // namespace hearth::launcher
