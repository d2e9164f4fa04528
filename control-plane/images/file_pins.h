// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// Of a folder's files, which are named by their digest: those that are being brought in. Nothing
// refers to them yet, and still they must not be collected. Thread-safe.
class FilePins {
 public:
  class Pin {
   public:
    Pin() = default;
    Pin(Pin&& other) noexcept { *this = std::move(other); }
    Pin& operator=(Pin&& other) noexcept {
      std::swap(pins_, other.pins_);
      std::swap(digest_, other.digest_);
      return *this;
    }
    ~Pin();

   private:
    friend class FilePins;
    Pin(FilePins* pins, std::string digest) : pins_(pins), digest_(std::move(digest)) {}
    FilePins* pins_ = nullptr;
    std::string digest_;
  };

  // To be held from before the file is there until what refers to it is written. Goes before this.
  [[nodiscard]] Pin Add(const std::string& digest) ABSL_LOCKS_EXCLUDED(mutex_);

  // Removes the files in `folder` that are neither pinned nor among those that `used` answers; how
  // many. `used` is called while nothing can be pinned: so what was brought in before is referred
  // to or pinned, and what comes after comes whole.
  absl::StatusOr<int> Collect(const std::string& folder,
                              absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Mutex mutex_;
  std::multiset<std::string> pinned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
