// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/images/verified_files.h"
#include "control-plane/node/node.h"

namespace hearth::control {

// Image files by their digest, in a folder of hearthd's own: hard links where the file system
// allows it, copies else. Thread-safe.
class KeptImages final : public ImageKeeper {
 public:
  // Makes `folder` when absent. `verified` outlives this.
  static absl::StatusOr<std::unique_ptr<KeptImages>> Open(const std::string& folder,
                                                          VerifiedFiles* verified);

  absl::Status Keep(const ImageFile& image) override;
  absl::StatusOr<ImageFile> Find(const std::string& digest) override;
  absl::Status Retain(const std::set<std::string>& digests) override;

 private:
  KeptImages(std::string folder, VerifiedFiles* verified)
      : folder_(std::move(folder)), verified_(verified) {}
  std::string PathOf(const std::string& digest) const;
  absl::Status Take(const std::string& from, const std::string& path) const;

  const std::string folder_;
  VerifiedFiles* const verified_;
  absl::Mutex mutex_;
  std::set<std::string> kept_ ABSL_GUARDED_BY(mutex_);  // Digests that need not be looked at again.
};

}  // namespace hearth::control
