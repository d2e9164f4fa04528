// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>

#include "control-plane/images/verified_files.h"
#include "control-plane/node/node.h"
#include "hearth/v1/resources.pb.h"
#include "vmm/base/status.h"

namespace hearth::control {

struct RuntimeEntry {
  hearth::v1::Runtime resource;
  RuntimeDescription description;  // Without handler; its arguments those of the Runtime API.
};

// The kernel, the agent and the runtimes that this hearthd uses: the image store's manifest.json,
// read and verified once, at start. Immutable, so thread-safe.
class ImageStore {
 public:
  // FAILED_PRECONDITION says what is missing or wrong with which file, and what to do.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Load(const std::string& folder,
                                                          VerifiedFiles* verified);

  const ImageFile& kernel() const { return kernel_; }
  const ImageFile& agent() const { return agent_; }
  const std::map<std::string, RuntimeEntry>& runtimes() const { return runtimes_; }
  const RuntimeEntry* FindRuntime(const std::string& name) const;

 private:
  ImageStore() = default;
  ImageFile kernel_;
  ImageFile agent_;
  std::map<std::string, RuntimeEntry> runtimes_;
};

}  // namespace hearth::control
