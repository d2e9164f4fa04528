// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm/snapshot/limits.h"

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

// Collects what is not zero, in ascending order; what lies between are the holes.
class HoleCollector {
 public:
  explicit HoleCollector(std::vector<PageRange>* holes) : holes_(holes) {}
  void Data(uint64_t begin, uint64_t end) {
    if (begin - end_ >= kMinHoleBytes && holes_->size() < kMaxHoles) {
      holes_->push_back({end_ / kGuestPageBytes, (begin - end_) / kGuestPageBytes});
    }
    end_ = end;
  }

 private:
  std::vector<PageRange>* const holes_;
  uint64_t end_ = 0;
};

// Writes the runs of pages in `data` that are not zero.
absl::Status WriteRuns(int fd, uint8_t* data, uint64_t size, uint64_t offset,
                       HoleCollector& collector, MemoryFileSize& result) {
  // Advice: one call instead of a fault for each page; what it does not do the loop does.
  madvise(data, size, MADV_POPULATE_READ);
  uint64_t run_start = 0;
  for (uint64_t at = 0; at <= size; at += kGuestPageBytes) {
    if (at < size && !IsZeroPage(data + at)) continue;
    if (at > run_start) {
      RETURN_IF_ERROR(WriteAll(fd, data + run_start, at - run_start, offset + run_start));
      collector.Data(offset + run_start, offset + at);
      result.data_pages += (at - run_start) / kGuestPageBytes;
    }
    run_start = at + kGuestPageBytes;
  }
  return absl::OkStatus();
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
  HoleCollector collector(&result.holes);
  uint64_t offset = 0;
  for (const auto& region : memory.regions()) {
    const uint64_t region_bytes = region.mapping.size_bytes();
    for (uint64_t at = 0; at < region_bytes; at += kScanBytes) {
      const uint64_t size = std::min(kScanBytes, region_bytes - at);
      RETURN_IF_ERROR(
          WriteRuns(fd, region.mapping.data() + at, size, offset + at, collector, result));
    }
    offset += region_bytes;
  }
  collector.Data(offset, offset);
  return result;
}

namespace {

// Puts anonymous memory where the file has holes. Left to the file, a page there would be charged
// twice when the guest writes to it: the kernel first puts a page of zeros into the file, which
// nobody wants, and then makes the private copy.
absl::Status MapHoles(std::span<const PageRange> holes, uint64_t offset, MappedRegion& region) {
  for (const PageRange& hole : holes) {
    const uint64_t begin = std::max(hole.first_page * kGuestPageBytes, offset);
    const uint64_t end = std::min((hole.first_page + hole.page_count) * kGuestPageBytes,
                                  offset + region.size_bytes());
    if (begin >= end) continue;
    if (mmap(region.data() + (begin - offset), end - begin, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
      return ErrnoStatus("mapping memory for a hole of the memory file");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<PageRange>> FindHoles(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the memory file");
  std::vector<PageRange> holes;
  HoleCollector collector(&holes);
  off_t data = 0;
  for (off_t hole = 0; hole < info.st_size;) {
    data = lseek(fd, hole, SEEK_DATA);
    // ENXIO: nothing but hole from there.
    if (data < 0 && errno == ENXIO) break;
    if (data >= 0) hole = lseek(fd, data, SEEK_HOLE);
    if (data < 0 || hole < 0) return ErrnoStatus("looking for holes in the memory file");
    collector.Data(static_cast<uint64_t>(data), static_cast<uint64_t>(hole));
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  collector.Data(size, size);
  return holes;
}

absl::StatusOr<GuestMemory> MapMemoryFile(int fd, std::span<const GuestMemory::Range> ranges,
                                          std::span<const PageRange> holes) {
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
    RETURN_IF_ERROR(MapHoles(holes, offset, mapping));
    regions.push_back({range.start, std::move(mapping)});
    offset += range.size_bytes;
  }
  return GuestMemory::Create(std::move(regions));
}

}  // namespace hearth::vmm
