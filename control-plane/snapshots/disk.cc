// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

absl::Status Disk::MakeFolder(const char* step, const std::string& path) const {
  RETURN_IF_ERROR(Before(step));
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make the folder ", path));
  }
  return absl::OkStatus();
}

absl::Status Disk::Write(const char* step, const std::string& path, absl::string_view bytes) const {
  RETURN_IF_ERROR(Before(step));
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return ErrnoStatus(absl::StrCat("create ", path));
  while (!bytes.empty()) {
    const ssize_t written = write(fd.get(), bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(absl::StrCat("write ", path));
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status Disk::Rename(const char* step, const std::string& from, const std::string& to) const {
  RETURN_IF_ERROR(Before(step));
  if (rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("rename ", from, " to ", to));
  }
  return absl::OkStatus();
}

absl::Status Disk::SyncFileSystem(const char* step, const std::string& folder) const {
  RETURN_IF_ERROR(Before(step));
  const UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || syncfs(fd.get()) != 0) {
    return ErrnoStatus(absl::StrCat("sync the file system of ", folder));
  }
  return absl::OkStatus();
}

absl::Status Disk::Sync(const char* step, const std::string& path) const {
  RETURN_IF_ERROR(Before(step));
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) return ErrnoStatus(absl::StrCat("sync ", path));
  return absl::OkStatus();
}

absl::Status Disk::Remove(const char* step, const std::string& path) const {
  RETURN_IF_ERROR(Before(step));
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(absl::StrCat("remove ", path));
  }
  return absl::OkStatus();
}

absl::Status Disk::RemoveTree(const char* step, const std::string& path) const {
  RETURN_IF_ERROR(Before(step));
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("remove ", path));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  ASSIGN_OR_RETURN(const UniqueFd file, OpenFileAt(AT_FDCWD, path));
  return ReadFd(file.get(), limit);
}

absl::StatusOr<UniqueFd> OpenFileAt(int at, const std::string& path) {
  // Without O_NONBLOCK somebody's FIFO would hold us up.
  UniqueFd file(openat(at, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file) return file;
  if (errno == ENOENT) return absl::NotFoundError("is missing");
  if (errno == ELOOP) return absl::DataLossError("is no regular file");
  return ErrnoStatus("cannot be opened");
}

absl::StatusOr<std::string> ReadFd(int file, size_t limit) {
  struct stat info = {};
  if (fstat(file, &info) != 0) return ErrnoStatus("cannot be looked at");
  if (!S_ISREG(info.st_mode)) return absl::DataLossError("is no regular file");
  if (static_cast<uint64_t>(info.st_size) > limit) {
    return absl::DataLossError(absl::StrCat("has ", info.st_size, " bytes; at most ", limit));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = read(file, bytes.data() + done, bytes.size() - done);
    if (got < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("cannot be read");
    }
    if (got == 0) break;  // It shrank meanwhile: what it held will not fit its digest.
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

absl::StatusOr<std::vector<std::string>> NamesIn(const std::string& folder) {
  struct Close {
    void operator()(DIR* dir) const { closedir(dir); }
  };
  std::vector<std::string> names;
  const std::unique_ptr<DIR, Close> dir(opendir(folder.c_str()));
  if (!dir) {
    if (errno == ENOENT) return names;
    return ErrnoStatus(absl::StrCat("list ", folder));
  }
  while (true) {
    errno = 0;
    const struct dirent* entry = readdir(dir.get());
    if (entry == nullptr) {
      if (errno != 0) return ErrnoStatus(absl::StrCat("list ", folder));
      break;
    }
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool Exists(const std::string& path) {
  struct stat info = {};
  return lstat(path.c_str(), &info) == 0;
}

}  // namespace hearth::control
