// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// At most one instance of each snapshot, for machines that cannot be cloned. Thread-safe; leases
// may outlive it.
class RestoreLeases {
 public:
  using Lease = std::shared_ptr<void>;

  // Null while somebody has the snapshot's.
  Lease Take(const std::string& uid) {
    absl::MutexLock lock(&taken_->mutex);
    if (!taken_->uids.insert(uid).second) return nullptr;
    return {taken_.get(), [taken = taken_, uid](void*) {
              absl::MutexLock release(&taken->mutex);
              taken->uids.erase(uid);
            }};
  }

 private:
  struct Taken {
    absl::Mutex mutex;
    std::set<std::string> uids ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<Taken> taken_ = std::make_shared<Taken>();
};

}  // namespace hearth::control
