// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/token_bucket.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

// Copies what a guest writes to its serial port, from QEMU's socket to the controller's descriptor,
// as hearth-vmm would write it: never blocking, at a limited rate; what does not fit is dropped and
// counted. The loop's thread.
class ConsoleCopy {
 public:
  // `bytes_per_second` 0: the default.
  static absl::StatusOr<std::unique_ptr<ConsoleCopy>> Start(EventLoop* loop, UniqueFd source,
                                                            UniqueFd target,
                                                            uint32_t bytes_per_second);
  ~ConsoleCopy();
  ConsoleCopy(const ConsoleCopy&) = delete;
  ConsoleCopy& operator=(const ConsoleCopy&) = delete;

  uint64_t dropped_bytes() const { return dropped_bytes_; }
  // What has been written and not been copied yet, when QEMU has ended.
  void Drain();

 private:
  ConsoleCopy(EventLoop* loop, UniqueFd source, UniqueFd target, uint32_t bytes_per_second);
  // False: nothing more is there now.
  bool CopySome();

  EventLoop* const loop_;
  UniqueFd source_;  // Closed when QEMU has.
  const UniqueFd target_;
  TokenBucket bucket_;
  uint64_t dropped_bytes_ = 0;
};

}  // namespace hearth::libvirt
