// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/string_view.h"
#include "control-plane/images/digest.h"
#include "control-plane/images/file_pins.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// Uploaded archives, files named by their digest. Equal content is kept once, whoever sent it; who
// may use it is the metadata's business. Thread-safe; a file is there whole or not at all.
class ArtifactStore {
 public:
  // One upload; used on one thread. Dropped before Commit() it leaves nothing behind; after it, it
  // keeps the file from being collected until it goes.
  class Upload {
   public:
    ~Upload();
    Upload(const Upload&) = delete;
    Upload& operator=(const Upload&) = delete;
    absl::Status Write(
        absl::string_view bytes);  // INVALID_ARGUMENT over limits::kMaxArtifactBytes.
    // Makes it durable and gives its digest. INVALID_ARGUMENT when `expected_digest` (unless empty)
    // or `expected_bytes` (unless 0) is another.
    absl::StatusOr<std::string> Commit(const std::string& expected_digest, int64_t expected_bytes);
    int64_t size_bytes() const { return size_bytes_; }

   private:
    friend class ArtifactStore;
    Upload(const ArtifactStore* store, std::string path, UniqueFd fd)
        : store_(store), path_(std::move(path)), fd_(std::move(fd)) {}
    const ArtifactStore* store_;
    FilePins::Pin pin_;
    std::string path_;
    UniqueFd fd_;
    Digester digester_;
    int64_t size_bytes_ = 0;
  };

  // Makes `folder` when it is absent, and removes what uploads a crash cut off left in it.
  static absl::StatusOr<std::unique_ptr<ArtifactStore>> Open(const std::string& folder);

  absl::StatusOr<std::unique_ptr<Upload>> Begin() const;
  std::string PathOf(const std::string& digest) const;
  // Removes all but what is being uploaded and these digests, as FilePins::Collect().
  absl::StatusOr<int> Prune(absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used) const;

 private:
  explicit ArtifactStore(std::string folder) : folder_(std::move(folder)) {}
  const std::string folder_;
  mutable FilePins pins_;
};

// Makes `folder` empty but there. For temporary files, at start-up.
absl::Status MakeEmptyFolder(const std::string& folder);
// Removes the files in `folder` (not its folders) whose names are not in `keep`; how many.
absl::StatusOr<int> KeepOnly(const std::string& folder, const std::set<std::string>& keep);
// So that a rename in it survives a power cut.
absl::Status SyncFolder(const std::string& folder);

}  // namespace hearth::control
