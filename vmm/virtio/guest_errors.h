// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "vmm/base/token_bucket.h"

namespace hearth::vmm {

// A guest can break rules as fast as it can run; the log takes this many lines of that.
inline constexpr uint64_t kGuestErrorLogBurst = 16;
inline constexpr uint64_t kGuestErrorLogPerSecond = 1;

// Counts the illegal things a machine's driver side did and logs some of them. One for each
// machine, shared by its devices, outlives them. Thread: under the machine's device lock.
class GuestErrors {
 public:
  // `log` receives one line, without a newline; may be empty.
  using Log = std::function<void(std::string_view line)>;
  explicit GuestErrors(Log log = {}) : log_(std::move(log)) {}
  GuestErrors(const GuestErrors&) = delete;
  GuestErrors& operator=(const GuestErrors&) = delete;

  // `device` and `what` are our own words, never the guest's.
  void Report(std::string_view device, std::string_view what);
  uint64_t count() const { return count_; }

 private:
  Log log_;
  uint64_t count_ = 0;
  TokenBucket log_budget_{kGuestErrorLogBurst, kGuestErrorLogPerSecond};
};

}  // namespace hearth::vmm
