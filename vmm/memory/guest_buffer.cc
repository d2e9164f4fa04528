// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_buffer.h"

#include <algorithm>

namespace hearth::vmm {

GuestBuffer::GuestBuffer(std::span<iovec> ranges) : ranges_(ranges) {
  for (const iovec& range : ranges_) size_ += range.iov_len;
}

bool GuestBuffer::CopyOut(std::span<uint8_t> to) {
  if (to.size() > size_) return false;
  while (!to.empty()) {
    const size_t bytes = std::min(to.size(), ranges_.front().iov_len);
    std::memcpy(to.data(), ranges_.front().iov_base, bytes);
    to = to.subspan(bytes);
    Skip(bytes);
  }
  ForbidSecondFetch();
  return true;
}

bool GuestBuffer::CopyIn(std::span<const uint8_t> from) {
  if (from.size() > size_) return false;
  while (!from.empty()) {
    const size_t bytes = std::min(from.size(), ranges_.front().iov_len);
    std::memcpy(ranges_.front().iov_base, from.data(), bytes);
    from = from.subspan(bytes);
    Skip(bytes);
  }
  return true;
}

GuestBuffer GuestBuffer::Clone(std::span<iovec> storage) const {
  if (storage.size() < ranges_.size()) __builtin_trap();
  std::copy(ranges_.begin(), ranges_.end(), storage.begin());
  return GuestBuffer(storage.first(ranges_.size()));
}

void GuestBuffer::Skip(uint64_t bytes) {
  if (bytes > size_) __builtin_trap();
  size_ -= bytes;
  while (!ranges_.empty() && bytes >= ranges_.front().iov_len) {
    bytes -= ranges_.front().iov_len;
    ranges_ = ranges_.subspan(1);
  }
  if (bytes == 0) return;
  iovec& first = ranges_.front();
  first.iov_base = static_cast<uint8_t*>(first.iov_base) + bytes;
  first.iov_len -= bytes;
}

void GuestBuffer::Truncate(uint64_t bytes) {
  if (bytes > size_) __builtin_trap();
  uint64_t excess = size_ - bytes;
  size_ = bytes;
  while (!ranges_.empty() && excess >= ranges_.back().iov_len) {
    excess -= ranges_.back().iov_len;
    ranges_ = ranges_.first(ranges_.size() - 1);
  }
  if (excess != 0) ranges_.back().iov_len -= excess;
}

GuestSpan GuestBuffer::TakeLastByte() {
  if (size_ == 0) __builtin_trap();
  const iovec& last = ranges_.back();
  const GuestSpan byte(static_cast<uint8_t*>(last.iov_base) + last.iov_len - 1, 1);
  Truncate(size_ - 1);
  return byte;
}

}  // namespace hearth::vmm
