// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

// What a guest with the agent boots from, for tests: the image store's kernel and runtime, the
// agent and a function's code as disks of their own in a folder that goes at the end.
class GuestFiles {
 public:
  // The function's code: name -> text, executable. `runtime` as in the image store's manifest.
  GuestFiles(const std::map<std::string, std::string>& code, const std::string& runtime);
  ~GuestFiles();

  // False, with a warning that says what is missing, when there is no image store ($HEARTH_IMAGES,
  // or the cache's) or no program to make the disks.
  static bool Possible();

  const std::string& directory() const { return directory_; }
  const std::string& kernel() const { return kernel_; }
  // Serial and file, in the guest's order; the first is its root.
  const std::vector<std::pair<std::string, std::string>>& disks() const { return disks_; }

  // A ConfigureInstance for such a guest.
  static agent::v1::Call ConfigureCall(const agent::v1::ResourceLimits& limits);

 private:
  std::string directory_;
  std::string kernel_;
  std::vector<std::pair<std::string, std::string>> disks_;
};

}  // namespace hearth::agent
