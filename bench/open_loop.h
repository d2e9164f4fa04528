// SPDX-License-Identifier: Apache-2.0
// Requests sent when they are due, whether or not those before have been answered.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench/arrivals.h"
#include "bench/samples.h"
#include "bench/starts.h"

namespace hearth::bench {

// So many may be under way; one that is due when none is free is sent late, and its latency counts
// from when it was due all the same.
inline constexpr size_t kMaxUnderWay = 512;

struct OpenLoopOptions {
  ArrivalKind arrivals = ArrivalKind::kPoisson;
  double rate = 0;  // Requests a second; 0: no open loop.
  double seconds = 10;
  uint64_t seed = 1;
};

struct OpenLoopResults {
  // By what hearthd says of the start, in words. All stations are counted from when the request
  // was due; "late_ms" is how much later it was sent.
  std::map<std::string, std::vector<Sample>> starts;
  std::vector<std::string> failures;
};

using Invoker = std::function<absl::StatusOr<Reply>()>;  // Called by many threads.

OpenLoopResults RunOpenLoop(const OpenLoopOptions& options, const Invoker& invoke);

// The stations of a reply whose request was sent `late_ms` after it was due.
Sample StationsFromDue(const Reply& reply, double late_ms);

}  // namespace hearth::bench
