// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace hearth::vmm {
namespace {

// Populated at a time while the zero pages are looked for.
constexpr uint64_t kScanBytes = 2 * 1024 * 1024;

bool IsZeroPage(const uint8_t* page) {
  // Its first word is zero and every other byte equals the one before: memcmp is the fastest loop
  // that the C library has.
  uint64_t first;
  std::memcpy(&first, page, sizeof(first));
  return first == 0 &&
         std::memcmp(page, page + sizeof(first), kGuestPageBytes - sizeof(first)) == 0;
}

absl::Status WriteAll(int fd, const uint8_t* data, uint64_t size, uint64_t offset) {
  while (size != 0) {
    const ssize_t count = pwrite(fd, data, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return ErrnoStatus("writing the memory file");
    data += count;
    size -= static_cast<uint64_t>(count);
    offset += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

// Writes the runs of pages in `data` that are not zero; returns their number.
absl::StatusOr<uint64_t> WriteRuns(int fd, uint8_t* data, uint64_t size, uint64_t offset) {
  // Advice: one call instead of a fault for each page; what it does not do the loop does.
  madvise(data, size, MADV_POPULATE_READ);
  uint64_t pages = 0;
  uint64_t run_start = 0;
  for (uint64_t at = 0; at <= size; at += kGuestPageBytes) {
    if (at < size && !IsZeroPage(data + at)) continue;
    if (at > run_start) {
      RETURN_IF_ERROR(WriteAll(fd, data + run_start, at - run_start, offset + run_start));
      pages += (at - run_start) / kGuestPageBytes;
    }
    run_start = at + kGuestPageBytes;
  }
  return pages;
}

}  // namespace

absl::StatusOr<MemoryFileSize> WriteMemoryFile(const GuestMemory& memory, int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the memory file");
  if (!S_ISREG(info.st_mode) || info.st_size != 0) {
    return absl::InvalidArgumentError("the memory file must be an empty file");
  }
  MemoryFileSize result;
  result.bytes = memory.size_bytes();
  if (ftruncate(fd, static_cast<off_t>(result.bytes)) != 0) {
    return ErrnoStatus(absl::StrCat("setting the memory file's size to ", result.bytes));
  }
  uint64_t offset = 0;
  for (const auto& region : memory.regions()) {
    const uint64_t region_bytes = region.mapping.size_bytes();
    for (uint64_t at = 0; at < region_bytes; at += kScanBytes) {
      const uint64_t size = std::min(kScanBytes, region_bytes - at);
      ASSIGN_OR_RETURN(const uint64_t pages,
                       WriteRuns(fd, region.mapping.data() + at, size, offset + at));
      result.data_pages += pages;
    }
    offset += region_bytes;
  }
  return result;
}

absl::StatusOr<GuestMemory> MapMemoryFile(int fd, std::span<const GuestMemory::Range> ranges) {
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return absl::FailedPreconditionError("the memory file is no memfd");
  constexpr int kNeeded = F_SEAL_WRITE | F_SEAL_SHRINK;
  if ((seals & kNeeded) != kNeeded) {
    return absl::FailedPreconditionError(
        "the memory file is not sealed against writing and shrinking");
  }
  uint64_t total = 0;
  for (const auto& range : ranges) total += range.size_bytes;
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the memory file");
  if (static_cast<uint64_t>(info.st_size) != total) {
    return absl::FailedPreconditionError(
        absl::StrCat("the memory file has ", info.st_size, " bytes, the saved machine ", total));
  }
  std::vector<GuestMemory::Region> regions;
  uint64_t offset = 0;
  for (const auto& range : ranges) {
    ASSIGN_OR_RETURN(MappedRegion mapping, MappedRegion::PrivateFile(fd, offset, range.size_bytes));
    regions.push_back({range.start, std::move(mapping)});
    offset += range.size_bytes;
  }
  return GuestMemory::Create(std::move(regions));
}

}  // namespace hearth::vmm
