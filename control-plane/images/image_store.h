// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/images/verified_files.h"
#include "control-plane/node/node.h"
#include "hearth/v1/resources.pb.h"
#include "vmm/base/status.h"

namespace hearth::control {

struct RuntimeEntry {
  hearth::v1::Runtime resource;
  RuntimeDescription description;  // Without handler; its arguments those of the Runtime API.
};

// What new machines are made from, all of one time.
struct ImageSet {
  ImageFile kernel;
  ImageFile agent;
  std::map<std::string, RuntimeEntry> runtimes;
};

// The kernel, the agent and the runtimes that this hearthd uses: the image store's manifest.json,
// read and verified at start and when somebody asks for it. Thread-safe.
class ImageStore {
 public:
  // FAILED_PRECONDITION says what is missing or wrong with which file, and what to do.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Load(const std::string& folder,
                                                          VerifiedFiles* verified);

  // Reads the manifest again; whether it says something else now. After an error all is as it was.
  absl::StatusOr<bool> Reload() ABSL_LOCKS_EXCLUDED(mutex_);

  std::shared_ptr<const ImageSet> current() const ABSL_LOCKS_EXCLUDED(mutex_);
  ImageFile kernel() const { return current()->kernel; }
  ImageFile agent() const { return current()->agent; }
  // Null when there is none of that name.
  std::shared_ptr<const RuntimeEntry> FindRuntime(const std::string& name) const;

 private:
  ImageStore(std::string folder, VerifiedFiles* verified)
      : folder_(std::move(folder)), verified_(verified) {}

  const std::string folder_;
  VerifiedFiles* const verified_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const ImageSet> current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
