// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

// A sequence of validated ranges of guest memory, consumed from the front (and at the back): what
// a descriptor chain offers to read from or to write to. A view over iovecs that somebody else
// owns (a DescriptorChain) and that it shortens; valid as long as they are.
class GuestBuffer {
 public:
  GuestBuffer() = default;
  explicit GuestBuffer(std::span<iovec> ranges);

  uint64_t size() const { return size_; }
  // What is left, for preadv, pwritev, sendmsg and recvmsg.
  std::span<iovec> iov() const { return ranges_; }

  // Copies from the front and consumes it; false, with nothing consumed, when it is shorter.
  bool CopyOut(std::span<uint8_t> to);
  bool CopyIn(std::span<const uint8_t> from);
  template <typename T>
  bool CopyOutValue(T& value) {
    return CopyOut({reinterpret_cast<uint8_t*>(&value), sizeof(value)});
  }
  template <typename T>
  bool CopyInValue(const T& value) {
    return CopyIn({reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }

  // The same ranges, to be consumed on their own; `storage` has room for them and outlives it.
  GuestBuffer Clone(std::span<iovec> storage) const;

  // Consumes `bytes` from the front; at most size().
  void Skip(uint64_t bytes);
  // Keeps the first `bytes` only; at most size().
  void Truncate(uint64_t bytes);
  // Takes the last byte off and returns its place; size() must not be 0.
  GuestSpan TakeLastByte();

 private:
  std::span<iovec> ranges_;
  uint64_t size_ = 0;
};

}  // namespace hearth::vmm
