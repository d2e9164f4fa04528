// SPDX-License-Identifier: Apache-2.0
// What an idle instance takes of the host's memory, with many alive that have each answered once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/client.h"

namespace hearth::bench {

inline constexpr int kMaxClones = 512;

struct ClonesResults {
  int alive = 0;
  std::string failure;  // Why there are no figures.
  // Each a clone's share, in bytes: of proportional memory, of private memory (guest RAM included
  // in both), and of what the host's MemAvailable has lost since before the first one.
  double pss_bytes = 0;
  double private_bytes = 0;
  double available_lost_bytes = 0;
};

// Invokes as many at once as are wanted, again while that makes the number grow. UNAVAILABLE with
// the number that was reached when it is another; hearthd wants an --idle-stop longer than this.
absl::StatusOr<ClonesResults> RunClones(const Client& client, const Call& call, int count);

}  // namespace hearth::bench
