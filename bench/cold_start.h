// SPDX-License-Identifier: Apache-2.0
// `hearth-bench cold-start`: what an invocation takes for each way in which its
// instance may start, through a hearthd that runs.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/clock.h"
#include "bench/clones.h"
#include "bench/open_loop.h"
#include "bench/restore.h"
#include "bench/starts.h"

namespace hearth::bench {

inline constexpr int kMaxConcurrency = 64;

struct BenchedFunction {
  std::string name;  // As in the report.
  Call call;
  // At most so much more may a start into a waiting VMM take than a warm one.
  std::optional<double> target;
};

struct ColdStartOptions {
  std::string socket = "/run/hearth/hearthd.sock";
  std::vector<BenchedFunction> functions;
  std::vector<Mode> modes;
  int runs = 10;
  int warmup = 5;  // A working set is made of the first four recordings.
  int concurrency = 1;
  // A program that is called with a mode's name (or "open-loop", "clones") and
  // how many at once (and the backend's, if one is named), and leaves hearthd
  // on the socket such that its starts are of that kind. Empty: hearthd stays.
  std::string prepare;
  std::string backend;
  // The snapshots' folder and whatever else a cold disk is to be cold of.
  std::vector<std::string> evict;
  OpenLoopOptions open_loop;
  int clones = 0;
  // QEMU's microvm from a migration file, if a kernel is named.
  RestoreOptions peer;
};

struct ModeResults {
  std::vector<Sample> samples;
  std::vector<Sample> discarded;
  // One line for each invocation that failed or whose start was of another
  // kind.
  std::vector<std::string> failures;
  std::string skipped;  // Why there is no figure.
};

struct ColdStartResults {
  ClockKind clock;
  std::map<std::string, std::map<Mode, ModeResults>> functions;
  std::map<std::string, OpenLoopResults> open_loops;
  std::map<std::string, ClonesResults> clones;
  std::vector<Sample> peer;
  std::string peer_failure;
};

// FAILED_PRECONDITION for more than one at once where the clock counts
// instructions.
absl::StatusOr<ColdStartResults> RunColdStart(
    const ColdStartOptions& options, const std::function<void(const std::string&)>& progress);
// What it refuses, before anything runs.
absl::Status CheckLoad(const ColdStartOptions& options, const ClockKind& clock);

// Of the medians: restored into a waiting VMM, less warm; and the cold boot's
// multiple of it.
struct Comparison {
  std::optional<double> above_warm;
  std::optional<double> cold_ratio;
};
Comparison Compare(const std::map<Mode, ModeResults>& modes);
// Whether each function's target is met, without a failure in either mode.
bool MeetsTargets(const ColdStartOptions& options, const ColdStartResults& results);

// The first few, a line each.
std::string FailureLines(const std::vector<std::string>& failures);
std::string ColdStartText(const ColdStartOptions& options, const ColdStartResults& results);
nlohmann::json ColdStartJson(const ColdStartOptions& options, const ColdStartResults& results);
// A picture of every function's kinds of start.
std::string ColdStartSvg(const ColdStartResults& results);

}  // namespace hearth::bench
