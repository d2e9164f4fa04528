// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/artifact_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include <filesystem>

#include "control-plane/limits.h"

namespace hearth::control {

namespace fs = std::filesystem;

absl::Status MakeEmptyFolder(const std::string& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (!error) fs::create_directories(folder, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("clear ", folder));
  return absl::OkStatus();
}

absl::Status SyncFolder(const std::string& folder) {
  UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("sync ", folder));
  return absl::OkStatus();
}

absl::StatusOr<int> KeepOnly(const std::string& folder, const std::set<std::string>& keep) {
  int removed = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (!entry.is_regular_file(error) || keep.count(entry.path().filename().string()) > 0) continue;
    if (fs::remove(entry.path(), error)) ++removed;
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("clean up ", folder));
  return removed;
}

absl::StatusOr<int> ArtifactStore::Prune(
    absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used) const {
  return pins_.Collect(folder_, used);
}

absl::StatusOr<std::unique_ptr<ArtifactStore>> ArtifactStore::Open(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("create ", folder));
  RETURN_IF_ERROR(MakeEmptyFolder(absl::StrCat(folder, "/incoming")));
  return std::unique_ptr<ArtifactStore>(new ArtifactStore(folder));
}

absl::StatusOr<std::unique_ptr<ArtifactStore::Upload>> ArtifactStore::Begin() const {
  std::string path = absl::StrCat(folder_, "/incoming/XXXXXX");
  UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("create ", path));
  return std::unique_ptr<Upload>(new Upload(this, std::move(path), std::move(fd)));
}

std::string ArtifactStore::PathOf(const std::string& digest) const {
  return absl::StrCat(folder_, "/", DigestHex(digest));
}

ArtifactStore::Upload::~Upload() {
  if (!path_.empty()) unlink(path_.c_str());
}

absl::Status ArtifactStore::Upload::Write(absl::string_view bytes) {
  if (size_bytes_ + static_cast<int64_t>(bytes.size()) > limits::kMaxArtifactBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the archive is over the limit of ", limits::kMaxArtifactBytes,
                     " bytes; leave out what the function does not need"));
  }
  digester_.Add(bytes);
  size_bytes_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd_.get(), bytes.data(), bytes.size());
    if (wrote < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("keep the uploaded archive");  // ENOSPC is RESOURCE_EXHAUSTED.
    }
    bytes.remove_prefix(wrote);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ArtifactStore::Upload::Commit(const std::string& expected_digest,
                                                          int64_t expected_bytes) {
  if (expected_bytes != 0 && expected_bytes != size_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("the archive has ", size_bytes_, " bytes, not ",
                                                   expected_bytes, " as its header says"));
  }
  const std::string digest = digester_.Finish();
  if (!expected_digest.empty() && expected_digest != digest) {
    return absl::InvalidArgumentError(absl::StrCat("the archive's digest is ", digest, ", not ",
                                                   expected_digest, " as its header says"));
  }
  if (fsync(fd_.get()) != 0) return ErrnoStatus("sync the uploaded archive");
  pin_ = store_->pins_.Add(digest);
  if (rename(path_.c_str(), store_->PathOf(digest).c_str()) != 0) {
    return ErrnoStatus("keep the uploaded archive");
  }
  path_.clear();
  RETURN_IF_ERROR(SyncFolder(store_->folder_));
  return digest;
}

}  // namespace hearth::control
