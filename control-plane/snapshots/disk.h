// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// The changes that the store makes to the disk, each one announced to `before_step`, which tests
// use to fail or to kill the process at each of them. Errors name the path. Thread-safe.
class Disk {
 public:
  using BeforeStep = std::function<absl::Status(const char*)>;
  explicit Disk(BeforeStep before_step) : before_step_(std::move(before_step)) {}

  absl::Status MakeFolder(const char* step, const std::string& path) const;  // May be there.
  // A new file, 0600, not synced.
  absl::Status Write(const char* step, const std::string& path, absl::string_view bytes) const;
  absl::Status Rename(const char* step, const std::string& from, const std::string& to) const;
  // Everything written before, of the whole file system that holds `folder`: one call for
  // thousands of chunks.
  absl::Status SyncFileSystem(const char* step, const std::string& folder) const;
  absl::Status Sync(const char* step, const std::string& path) const;    // A file or a folder.
  absl::Status Remove(const char* step, const std::string& path) const;  // A file; may be gone.
  absl::Status RemoveTree(const char* step, const std::string& path) const;
  // A point between steps at which much can happen elsewhere.
  absl::Status Announce(const char* step) const { return Before(step); }

 private:
  absl::Status Before(const char* step) const {
    return before_step_ ? before_step_(step) : absl::OkStatus();
  }
  const BeforeStep before_step_;
};

// A regular file's content. NOT_FOUND when absent, DATA_LOSS when longer than `limit` or not a
// regular file. Both begin with "is ..." or "has ...", for the caller to name the file.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit);
// The same in two steps, the path being below the folder `at`. What is opened need not be a file.
absl::StatusOr<UniqueFd> OpenFileAt(int at, const std::string& path);
absl::StatusOr<std::string> ReadFd(int file, size_t limit);

// The names in a folder but for "." and "..", sorted; none when it is absent.
absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& folder);
bool Exists(const std::string& path);

}  // namespace hearth::control
