// SPDX-License-Identifier: Apache-2.0
#include "bench/page_cache.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::bench {
namespace {

// Somebody else may be reading a file just now, for one a backup: so much may stay.
constexpr uint64_t kMayStayShare = 100;

absl::Status CheckOnDisk(const std::string& folder) {
  struct statfs info = {};
  if (statfs(folder.c_str(), &info) != 0) return ErrnoStatus(folder);
  if (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder, " is in memory (tmpfs): there is no page cache to drop it from"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> CachedBytes(int fd) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat");
  if (info.st_size == 0) return 0;
  const auto size = static_cast<size_t>(info.st_size);
  void* const mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) return ErrnoStatus("mmap");
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> in_core((size + page - 1) / page);
  const int looked = mincore(mapped, size, in_core.data());
  munmap(mapped, size);
  if (looked != 0) return ErrnoStatus("mincore");
  const auto count =
      std::count_if(in_core.begin(), in_core.end(), [](unsigned char is) { return (is & 1) != 0; });
  return static_cast<uint64_t>(count) * page;
}

absl::StatusOr<uint64_t> DropFromPageCache(const std::string& folder) {
  RETURN_IF_ERROR(CheckOnDisk(folder));
  uint64_t before = 0;
  uint64_t after = 0;
  std::error_code error;
  for (auto it = std::filesystem::recursive_directory_iterator(folder, error);
       !error && it != std::filesystem::recursive_directory_iterator(); it.increment(error)) {
    if (!it->is_regular_file(error) || it->is_symlink(error)) continue;
    const UniqueFd file(open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file) continue;  // It has just gone, as a chunk may.
    ASSIGN_OR_RETURN(const uint64_t cached, CachedBytes(file.get()));
    before += cached;
    // Pages that are dirty would stay.
    if (fdatasync(file.get()) != 0)
      return ErrnoStatus(absl::StrCat("fdatasync ", it->path().c_str()));
    const int dropped = posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (dropped != 0) return ErrnoStatus(dropped, "posix_fadvise");
    ASSIGN_OR_RETURN(const uint64_t left, CachedBytes(file.get()));
    after += left;
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", folder));
  if (after > before / kMayStayShare) {
    return absl::FailedPreconditionError(
        absl::StrCat(after, " of ", before, " bytes of ", folder, " stay in the page cache"));
  }
  return before - after;
}

}  // namespace hearth::bench
