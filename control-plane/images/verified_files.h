// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// Checks files against their digests and remembers which it has seen, in memory and in a cache
// file, so that a start need not read every image again. A file counts as unchanged while device,
// inode, size and the times of its last change and status change are; that finds truncation and
// replacement, but not a disk that rots. Without the cache file everything is read. Thread-safe.
class VerifiedFiles {
 public:
  // `cache_path` may be absent or damaged: then nothing counts as seen.
  explicit VerifiedFiles(std::string cache_path);

  // OK when `path` is a regular file with that digest. NOT_FOUND when it is absent, DATA_LOSS when
  // its content is another.
  absl::Status Verify(const std::string& path, const std::string& digest)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string cache_path_;
  absl::Mutex mutex_;
  // Path to identity and digest, one text.
  std::map<std::string, std::string> seen_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
