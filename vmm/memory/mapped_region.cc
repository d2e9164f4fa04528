// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/mapped_region.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hearth::vmm {
namespace {

constexpr size_t kLargePageBytes = 2 * 1024 * 1024;

bool IsWholePages(size_t size_bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size_bytes != 0 && size_bytes % page == 0;
}

}  // namespace

MappedRegion& MappedRegion::operator=(MappedRegion&& other) noexcept {
  if (this != &other) {
    Unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void MappedRegion::Unmap() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

absl::StatusOr<MappedRegion> MappedRegion::Anonymous(size_t size_bytes) {
  if (!IsWholePages(size_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory size ", size_bytes, " is not a positive number of whole pages"));
  }
  void* data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return ErrnoStatus(absl::StrCat("mmap of ", size_bytes, " bytes"));
  return MappedRegion(static_cast<uint8_t*>(data), size_bytes);
}

absl::StatusOr<MappedRegion> MappedRegion::ReadOnlyFile(int fd, size_t size_bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of a file to map");
  if (size_bytes == 0 || static_cast<uint64_t>(info.st_size) < size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("a file of ", info.st_size, " bytes cannot be mapped for ", size_bytes));
  }
  void* data = mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) return ErrnoStatus(absl::StrCat("mmap of a file, ", size_bytes));
  return MappedRegion(static_cast<uint8_t*>(data), size_bytes);
}

absl::StatusOr<MappedRegion> MappedRegion::PrivateFile(int fd, uint64_t offset, size_t size_bytes) {
  if (!IsWholePages(size_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory size ", size_bytes, " is not a positive number of whole pages"));
  }
  // Address space first, of which the aligned part is kept.
  const size_t reserved_bytes = size_bytes + kLargePageBytes;
  void* const reserved =
      mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("mmap of ", reserved_bytes, " bytes"));
  }
  auto* const begin = static_cast<uint8_t*>(reserved);
  const size_t head = -reinterpret_cast<uintptr_t>(reserved) % kLargePageBytes;
  if (head != 0) munmap(begin, head);
  munmap(begin + head + size_bytes, kLargePageBytes - head);
  MappedRegion region(begin + head, size_bytes);
  if (mmap(region.data(), size_bytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, static_cast<off_t>(offset)) == MAP_FAILED) {
    return ErrnoStatus(absl::StrCat("mmap of a memory file, ", size_bytes, " bytes at ", offset));
  }
  return region;
}

}  // namespace hearth::vmm
