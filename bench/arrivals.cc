// SPDX-License-Identifier: Apache-2.0
#include "bench/arrivals.h"

#include <cmath>
#include <random>

namespace hearth::bench {

std::vector<uint64_t> Arrivals(ArrivalKind kind, double rate, double seconds, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint64_t> arrivals;
  double at = 0;
  for (uint64_t count = 0;; ++count) {
    if (kind == ArrivalKind::kFixed) {
      at = static_cast<double>(count) / rate;
    } else {
      // An exponential gap: std::exponential_distribution may differ between libraries.
      const double share = static_cast<double>(random() >> 11) * 0x1p-53;
      at += -std::log1p(-share) / rate;
    }
    if (at >= seconds || static_cast<double>(count) >= kMaxArrivals) return arrivals;
    arrivals.push_back(static_cast<uint64_t>(at * 1e9));
  }
}

}  // namespace hearth::bench
