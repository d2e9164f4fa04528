// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/kept_images.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "control-plane/images/artifact_store.h"
#include "control-plane/images/digest.h"

namespace hearth::control {
namespace {

namespace fs = std::filesystem;

// Under a name of its own until it is whole. Two that copy the same race for equal content.
absl::Status Copy(const std::string& from, const std::string& to) {
  std::string temporary = absl::StrCat(to, ".XXXXXX");
  const UniqueFd made(mkostemp(temporary.data(), O_CLOEXEC));
  if (!made) return ErrnoStatus(absl::StrCat("create ", temporary));
  std::error_code error;
  fs::copy_file(from, temporary, fs::copy_options::overwrite_existing, error);
  absl::Status copied =
      error ? ErrnoStatus(error.value(), absl::StrCat("copy ", from)) : absl::OkStatus();
  if (copied.ok() && fsync(made.get()) != 0) copied = ErrnoStatus(absl::StrCat("sync ", to));
  if (copied.ok() && rename(temporary.c_str(), to.c_str()) != 0) {
    copied = ErrnoStatus(absl::StrCat("keep ", to));
  }
  if (!copied.ok()) unlink(temporary.c_str());
  return copied;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KeptImages>> KeptImages::Open(const std::string& folder,
                                                             VerifiedFiles* verified) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("create ", folder));
  return std::unique_ptr<KeptImages>(new KeptImages(folder, verified));
}

std::string KeptImages::PathOf(const std::string& digest) const {
  return absl::StrCat(folder_, "/", DigestHex(digest));
}

absl::Status KeptImages::Keep(const ImageFile& image) {
  if (!IsDigest(image.digest)) {
    return absl::InvalidArgumentError(absl::StrCat(image.path, " has no digest"));
  }
  {
    absl::MutexLock lock(&mutex_);
    if (kept_.count(image.digest) != 0) return absl::OkStatus();
  }
  const std::string path = PathOf(image.digest);
  const bool there = access(path.c_str(), F_OK) == 0 && verified_->Verify(path, image.digest).ok();
  // The source was verified when the image store was read, and Find() verifies what is kept.
  if (!there) RETURN_IF_ERROR(Take(image.path, path));
  absl::MutexLock lock(&mutex_);
  kept_.insert(image.digest);
  return absl::OkStatus();
}

absl::Status KeptImages::Take(const std::string& from, const std::string& path) const {
  unlink(path.c_str());  // Damaged, if it is there.
  if (link(from.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    // Another file system, another owner's file, or a file system without links.
    RETURN_IF_ERROR(Copy(from, path));
  }
  return SyncFolder(folder_);
}

absl::StatusOr<ImageFile> KeptImages::Find(const std::string& digest) {
  if (!IsDigest(digest)) return absl::NotFoundError(absl::StrCat("'", digest, "' is no digest"));
  const std::string path = PathOf(digest);
  RETURN_IF_ERROR(verified_->Verify(path, digest));
  return ImageFile{path, digest};
}

absl::Status KeptImages::Retain(const std::set<std::string>& digests) {
  std::set<std::string> names;
  for (const std::string& digest : digests) {
    if (IsDigest(digest)) names.insert(DigestHex(digest));
  }
  absl::MutexLock lock(&mutex_);
  kept_.clear();
  return KeepOnly(folder_, names).status();
}

}  // namespace hearth::control
