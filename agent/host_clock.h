// SPDX-License-Identifier: Apache-2.0
// The machine's wall clock, set to the host's. A time in a message is as old as the message; KVM
// tells the guest what the host's clock shows now (KVM_HC_CLOCK_PAIRING, by the guest's ptp_kvm).
// Neither a slow connection nor a host that stands still for a moment makes the clock wrong then.
#pragma once

#include <linux/ptp_clock.h>

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

// How far KVM's clock may be from the message's: beyond it, it is not the clock that the host
// means.
inline constexpr int64_t kMaxHostClockDifferenceNs = 10'000'000'000;

class HostClock {
 public:
  // Opens KVM's clock, where there is one: hosts whose own clock is not the TSC have none.
  HostClock();

  // Sets the wall clock to the host's, which showed `unix_ns` when it sent that; not above 0: the
  // clock is left alone.
  absl::Status Set(int64_t unix_ns) const;

  // As Set(), after a pause, which can only have held this machine's clock back: without KVM's word
  // it is never put back, for the message is older than its own time.
  absl::Status CatchUp(int64_t unix_ns) const;

 private:
  // How far KVM's clock is ahead of this machine's; nothing where it tells none, or another clock
  // than the one that showed `unix_ns`.
  std::optional<int64_t> KvmOffsetNs(int64_t unix_ns) const;

  UniqueFd kvm_;
};

// How far the host's clock is ahead of this machine's: of the readings, each between two of this
// machine's clock, the one that took least. Nothing if there is none.
std::optional<int64_t> HostClockOffsetNs(const ptp_sys_offset& readings);

}  // namespace hearth::agent
