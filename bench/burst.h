// SPDX-License-Identifier: Apache-2.0
// `hearth-bench burst`: STeLLAR's pattern, bursts of simultaneous invocations at fixed times.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/client.h"
#include "bench/clock.h"

namespace hearth::bench {

inline constexpr int kMaxBurstSize = 1000;
inline constexpr int kMaxBursts = 10'000;
// Of all bursts that are still waited for; each is a thread.
inline constexpr int kMaxBurstCallsInFlight = 4000;

struct BurstOptions {
  std::string socket = "/run/hearth/hearthd.sock";
  Call call;
  int size = 10;
  double interval_s = 10;  // From the start of one burst to that of the next.
  int bursts = 10;
};

// One invocation of a burst.
struct BurstCall {
  double sent_ms = 0;   // From the burst's appointed time; what it is late by.
  double reply_ms = 0;  // From sending to the last byte, or to the failure.
  std::string start;    // "COLD", "RESTORED" or "WARM"; empty when it failed.
  std::string invocation;
  std::string failure;  // Empty when it succeeded.
};

struct BurstResults {
  ClockKind clock;
  std::vector<std::vector<BurstCall>> bursts;
};

using InvokeFunction = std::function<absl::StatusOr<Reply>(const Call&)>;

// Open loop: a burst starts at its time, whatever the ones before are waiting for, unless that
// would be more than kMaxBurstCallsInFlight calls. A call that fails is a figure, not an error.
// INVALID_ARGUMENT outside the limits above.
absl::StatusOr<BurstResults> RunBursts(const BurstOptions& options, const InvokeFunction& invoke,
                                       const std::function<void(const std::string&)>& progress);
// The same through hearthd, over a connection for each 50 calls of a burst.
absl::StatusOr<BurstResults> RunBursts(const BurstOptions& options,
                                       const std::function<void(const std::string&)>& progress);

std::string BurstText(const BurstOptions& options, const BurstResults& results);
nlohmann::json BurstJson(const BurstOptions& options, const BurstResults& results);

}  // namespace hearth::bench
