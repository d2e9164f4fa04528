// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>

#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace hearth::control {

// How many VMM processes to keep ahead of demand: as many as machines were made within the busiest
// second of the last minute, so that the next burst of that size finds its processes, or a fixed
// number. None while the host is short of memory. One thread at a time.
class WaitingPolicy {
 public:
  WaitingPolicy(absl::optional<size_t> fixed, size_t most) : fixed_(fixed), most_(most) {}

  void MachineMade(absl::Time now);
  // `available` and `total` bytes of the host's memory.
  size_t Want(absl::Time now, uint64_t available, uint64_t total) const;
  static bool IsShort(uint64_t available, uint64_t total);

 private:
  struct Second {
    int64_t at;  // Since the epoch.
    size_t made;
  };
  const absl::optional<size_t> fixed_;
  const size_t most_;
  std::deque<Second> seconds_;  // Those in which some were made, of the last minute.
};

}  // namespace hearth::control
