// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "vmm/base/status.h"

namespace hearth::vmm {

// Owns one mmap of this process and unmaps it. Move-only.
class MappedRegion {
 public:
  MappedRegion() = default;
  MappedRegion(MappedRegion&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedRegion& operator=(MappedRegion&& other) noexcept;
  MappedRegion(const MappedRegion&) = delete;
  MappedRegion& operator=(const MappedRegion&) = delete;
  ~MappedRegion() { Unmap(); }

  // Zeroed private memory, not reserved: pages cost nothing until they are touched.
  // `size_bytes` is a positive multiple of the page size.
  static absl::StatusOr<MappedRegion> Anonymous(size_t size_bytes);
  // A read-only private view of the first `size_bytes` of a file. FailedPrecondition when the file
  // is shorter: touching the pages beyond its end would raise SIGBUS.
  static absl::StatusOr<MappedRegion> ReadOnlyFile(int fd, size_t size_bytes);

  // A private, writable view of a file's pages: what is written is ours alone. `offset` is a whole
  // number of pages. The caller has seen to it that the file cannot shrink. Begins at a multiple of
  // 2 MiB, as large pages have to.
  static absl::StatusOr<MappedRegion> PrivateFile(int fd, uint64_t offset, size_t size_bytes);

  uint8_t* data() const { return data_; }
  size_t size_bytes() const { return size_; }

 private:
  MappedRegion(uint8_t* data, size_t size) : data_(data), size_(size) {}
  void Unmap();

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace hearth::vmm
