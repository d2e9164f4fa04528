// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/images/code_disks.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/node.h"
#include "control-plane/store/metadata_store.h"

namespace hearth::control {

// What a name leads to.
struct Route {
  std::string function;
  VersionPtr version;
};

// From a name to a version that can run, from memory. What is not there is loaded from the
// metadata; whoever changes that calls Invalidate() after the change is durable. Thread-safe.
class Router {
 public:
  // All outlive the router.
  Router(MetadataStore* metadata, const ImageStore* images, const CodeDisks* disks)
      : metadata_(metadata), images_(images), disks_(disks) {}

  // `name` is a function (which means its alias `live`), a version or an alias; the field `name` of
  // a request. NOT_FOUND, or FAILED_PRECONDITION when there is no live version, when the version is
  // not ready, or when its code disk is damaged.
  absl::StatusOr<Route> Resolve(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);

  // Forgets what is known of a function.
  void Invalidate(const std::string& function) ABSL_LOCKS_EXCLUDED(mutex_);
  // Of all: the images have changed.
  void InvalidateAll() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Below one function.
  struct Known {
    std::map<std::string, std::string> aliases;  // Alias's name to version's name.
    std::map<std::string, VersionPtr> versions;
  };

  absl::StatusOr<std::string> LoadAlias(const std::string& function, const std::string& alias,
                                        bool implied) const;
  absl::StatusOr<VersionPtr> LoadVersion(const std::string& name) const;

  MetadataStore* const metadata_;
  const ImageStore* const images_;
  const CodeDisks* const disks_;

  absl::Mutex mutex_;
  std::map<std::string, Known> functions_ ABSL_GUARDED_BY(mutex_);
  // Counts invalidations: what was loaded while one came is used once, but not kept.
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace hearth::control
