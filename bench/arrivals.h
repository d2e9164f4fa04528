// SPDX-License-Identifier: Apache-2.0
// When an open loop's requests are meant to be sent, whatever became of those before.
#pragma once

#include <cstdint>
#include <vector>

namespace hearth::bench {

enum class ArrivalKind { kPoisson, kFixed };

inline constexpr double kMaxArrivals = 1e6;

// Nanoseconds from the load's beginning, ascending, all before its end. Equal seeds give equal
// times. `rate` and `seconds` are above 0, their product at most kMaxArrivals.
std::vector<uint64_t> Arrivals(ArrivalKind kind, double rate, double seconds, uint64_t seed);

}  // namespace hearth::bench
