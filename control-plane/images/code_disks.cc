// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/code_disks.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include <filesystem>

#include "control-plane/images/child_process.h"
#include "control-plane/images/unpack.h"

namespace hearth::control {
namespace {

namespace fs = std::filesystem;

// Any fixed value does: it makes equal content give an equal image.
constexpr char kUuid[] = "6d0f1c3a-5a4e-4b7e-9a53-6865617274ff";

absl::Status SyncFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("sync ", path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CodeDisks>> CodeDisks::Open(const std::string& folder,
                                                           VerifiedFiles* verified) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("create ", folder));
  RETURN_IF_ERROR(MakeEmptyFolder(absl::StrCat(folder, "/building")));
  return std::unique_ptr<CodeDisks>(new CodeDisks(folder, verified));
}

absl::StatusOr<BuiltDisk> CodeDisks::Build(const std::string& archive,
                                           const Cancellation& cancellation) {
  std::string work = absl::StrCat(folder_, "/building/XXXXXX");
  if (mkdtemp(work.data()) == nullptr) return ErrnoStatus(absl::StrCat("create ", work));
  auto disk = BuildIn(work, archive, cancellation);
  std::error_code error;
  fs::remove_all(work, error);
  return disk;
}

absl::StatusOr<BuiltDisk> CodeDisks::BuildIn(const std::string& work, const std::string& archive,
                                             const Cancellation& cancellation) {
  const std::string tree = absl::StrCat(work, "/tree");
  const std::string disk = absl::StrCat(work, "/disk");
  std::error_code error;
  fs::create_directory(tree, error);
  fs::permissions(tree, fs::perms(0755), error);  // Whatever hearthd's umask: guests see it.
  if (error) return ErrnoStatus(error.value(), absl::StrCat("create ", tree));
  RETURN_IF_ERROR(Unpack(archive, tree, cancellation));
  if (fs::is_empty(tree, error)) return absl::InvalidArgumentError("the archive is empty");
  ASSIGN_OR_RETURN(
      const ChildResult result,
      RunChild({"mkfs.erofs", "-T0", "-U", kUuid, "--all-root", "-x-1", disk, tree}, cancellation));
  if (result.exit_code != 0) {
    return absl::UnavailableError(absl::StrCat("mkfs.erofs could not build the code disk (",
                                               result.signal != 0
                                                   ? absl::StrCat("signal ", result.signal)
                                                   : absl::StrCat("exit code ", result.exit_code),
                                               "; is the disk full?): ", result.output));
  }
  ASSIGN_OR_RETURN(const std::string digest, DigestOfFile(disk));
  RETURN_IF_ERROR(SyncFile(disk));
  const std::string path = absl::StrCat(folder_, "/", DigestHex(digest));
  FilePins::Pin pin = pins_.Add(digest);
  if (rename(disk.c_str(), path.c_str()) != 0) return ErrnoStatus(absl::StrCat("keep ", path));
  RETURN_IF_ERROR(SyncFolder(folder_));
  return BuiltDisk{{path, digest}, std::move(pin)};
}

absl::StatusOr<int> CodeDisks::Prune(
    absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used) {
  return pins_.Collect(folder_, used);
}

absl::StatusOr<ImageFile> CodeDisks::Find(const std::string& digest) const {
  const std::string path = absl::StrCat(folder_, "/", DigestHex(digest));
  RETURN_IF_ERROR(verified_->Verify(path, digest));
  return ImageFile{path, digest};
}

}  // namespace hearth::control
