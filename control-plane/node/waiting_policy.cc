// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/waiting_policy.h"

#include <algorithm>

namespace hearth::control {
namespace {

constexpr int64_t kRememberedSeconds = 60;
// Short of memory is who has less than a sixteenth left.
constexpr uint64_t kShortShare = 16;

}  // namespace

bool WaitingPolicy::IsShort(uint64_t available, uint64_t total) {
  return available < total / kShortShare;
}

void WaitingPolicy::MachineMade(absl::Time now) {
  const int64_t second = absl::ToUnixSeconds(now);
  while (!seconds_.empty() && seconds_.front().at <= second - kRememberedSeconds) {
    seconds_.pop_front();
  }
  if (seconds_.empty() || seconds_.back().at < second) seconds_.push_back({second, 0});
  ++seconds_.back().made;
}

size_t WaitingPolicy::Want(absl::Time now, uint64_t available, uint64_t total) const {
  if (IsShort(available, total)) return 0;
  if (fixed_.has_value()) return *fixed_;
  const int64_t oldest = absl::ToUnixSeconds(now) - kRememberedSeconds;
  size_t most = 0;
  for (const Second& second : seconds_) {
    if (second.at > oldest) most = std::max(most, second.made);
  }
  return std::min(most, most_);
}

}  // namespace hearth::control
