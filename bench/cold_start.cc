// SPDX-License-Identifier: Apache-2.0
#include "bench/cold_start.h"

#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/page_cache.h"
#include "bench/restored_machines.h"
#include "bench/vmm_processes.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

using Progress = std::function<void(const std::string&)>;

absl::Status RunPrepare(const ColdStartOptions& options, const std::string& what, int at_once) {
  if (options.prepare.empty()) return absl::OkStatus();
  std::string arguments[] = {options.prepare, what, std::to_string(at_once), options.backend};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                  options.backend.empty() ? nullptr : arguments[3].data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], nullptr, nullptr, argv, environ);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("running ", options.prepare));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus("waitpid");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(options.prepare, " ", what, " failed; it tells why above"));
}

// What the only VMM with a guest has counted: nothing when there are several,
// or none is seen.
std::optional<VmmCounts> CountsOfOnlyVmm() {
  const std::vector<pid_t> vmms = VmmsWithGuest();
  return vmms.size() == 1 ? CountsOf(vmms[0]) : std::nullopt;
}

void AddCounts(const VmmCounts& before, const VmmCounts& after, Sample* sample) {
  (*sample)["page_faults"] = after.page_faults - before.page_faults;
  if (after.exits.has_value()) (*sample)["exits"] = *after.exits - before.exits.value_or(0);
}

// Judges a round and takes its samples.
void Take(Mode mode, const std::vector<absl::StatusOr<Reply>>& replies, const Sample& counts,
          bool discard, ModeResults* results) {
  for (const auto& reply : replies) {
    const absl::Status right = reply.ok() ? CheckStart(mode, reply->invocation) : reply.status();
    if (!reply.ok() || !right.ok()) {
      if (!discard) results->failures.emplace_back(right.message());
      continue;
    }
    Sample sample = StationsOf(*reply);
    sample.insert(counts.begin(), counts.end());
    (discard ? results->discarded : results->samples).push_back(std::move(sample));
  }
}

// One round of a mode. An error ends the benchmark; `results->skipped` the
// mode.
absl::Status RunRound(const ColdStartOptions& options, Mode mode, const Client& client,
                      const Call& call, bool discard, ModeResults* results) {
  std::optional<VmmCounts> before = VmmCounts();  // A VMM process that is new has counted nothing.
  if (mode == Mode::kWarm) {
    before = CountsOfOnlyVmm();
  } else {
    RETURN_IF_ERROR(client.AwaitNoInstance(call.function));
  }
  if (mode == Mode::kColdDisk) {
    for (const std::string& folder : options.evict) {
      RETURN_IF_ERROR(DropFromPageCache(folder).status());
    }
  }
  const auto replies = client.InvokeAtOnce(call, options.concurrency);
  Sample counts;
  if (options.concurrency == 1 && before.has_value()) {
    if (const auto after = CountsOfOnlyVmm()) AddCounts(*before, *after, &counts);
  }
  Take(mode, replies, counts, discard, results);
  return absl::OkStatus();
}

// Why a mode cannot be brought about here; OK otherwise.
absl::Status CheckMode(const ColdStartOptions& options, Mode mode) {
  if (mode != Mode::kColdDisk) return absl::OkStatus();
  if (options.evict.empty()) {
    return absl::FailedPreconditionError("name the snapshots' folder with --evict");
  }
  for (const std::string& folder : options.evict) {
    RETURN_IF_ERROR(DropFromPageCache(folder).status());
  }
  return absl::OkStatus();
}

// What another function's instances leave behind them must not be in a
// function's figures.
absl::Status AwaitQuiet(const ColdStartOptions& options, const Client& client) {
  for (const BenchedFunction& any : options.functions) {
    RETURN_IF_ERROR(client.AwaitNoInstance(any.call.function));
  }
  return absl::OkStatus();
}

// The first restores of a function still record its working set, so those of its first mode that
// restores are discarded; behind a change of mode, what loads the snapshot, and has VMMs wait.
int WarmupOf(const ColdStartOptions& options, Mode mode) {
  // An instance's first two invocations are not warm yet.
  if (mode == Mode::kWarm) return std::max(options.warmup, 2);
  if (mode == Mode::kColdBoot) return std::min(options.warmup, 1);
  for (const Mode other : options.modes) {
    if (other == mode) break;
    if (other != Mode::kColdBoot && other != Mode::kWarm) return std::min(options.warmup, 2);
  }
  return options.warmup;
}

absl::Status RunMode(const ColdStartOptions& options, Mode mode, const BenchedFunction& function,
                     const Progress& progress, ModeResults* results) {
  const Client client(options.socket);
  RETURN_IF_ERROR(AwaitQuiet(options, client));
  const int warmup = WarmupOf(options, mode);
  const int rounds = warmup + (options.runs + options.concurrency - 1) / options.concurrency;
  for (int round = 0; round < rounds; ++round) {
    progress(absl::StrCat(function.name, " ", NameOf(mode), " ", round + 1, " of ", rounds));
    RETURN_IF_ERROR(RunRound(options, mode, client, function.call, round < warmup, results));
  }
  return absl::OkStatus();
}

absl::Status RunModes(const ColdStartOptions& options, const Progress& progress,
                      ColdStartResults* results) {
  for (const Mode mode : options.modes) {
    const absl::Status possible = CheckMode(options, mode);
    if (possible.ok()) {
      progress(absl::StrCat("hearthd for ", NameOf(mode)));
      RETURN_IF_ERROR(RunPrepare(options, NameOf(mode), options.concurrency));
    }
    for (const BenchedFunction& function : options.functions) {
      ModeResults& of_mode = results->functions[function.name][mode];
      if (!possible.ok()) {
        of_mode.skipped = std::string(possible.message());
        continue;
      }
      // What was measured before is worth its telling all the same.
      const absl::Status ran = RunMode(options, mode, function, progress, &of_mode);
      if (!ran.ok()) of_mode.failures.emplace_back(ran.message());
    }
  }
  return absl::OkStatus();
}

absl::Status RunOpenLoops(const ColdStartOptions& options, const Progress& progress,
                          ColdStartResults* results) {
  RETURN_IF_ERROR(RunPrepare(options, "open-loop", options.concurrency));
  const Client client(options.socket);
  for (const BenchedFunction& function : options.functions) {
    RETURN_IF_ERROR(AwaitQuiet(options, client));
    progress(absl::StrCat(function.name, " open loop"));
    results->open_loops[function.name] =
        RunOpenLoop(options.open_loop, [&] { return client.Invoke(function.call); });
  }
  return absl::OkStatus();
}

absl::Status RunAllClones(const ColdStartOptions& options, const Progress& progress,
                          ColdStartResults* results) {
  for (const BenchedFunction& function : options.functions) {
    // Anew for each: the instances of the one before would live on.
    RETURN_IF_ERROR(RunPrepare(options, "clones", options.clones));
    progress(absl::StrCat(function.name, ", ", options.clones, " clones"));
    auto clones = RunClones(Client(options.socket), function.call, options.clones);
    results->clones[function.name] = clones.ok() ? *clones : ClonesResults();
    if (!clones.ok())
      results->clones[function.name].failure = std::string(clones.status().message());
  }
  return absl::OkStatus();
}

absl::Status RunPeer(const ColdStartOptions& options, const Progress& progress,
                     ColdStartResults* results) {
  progress("QEMU: boot and save");
  ASSIGN_OR_RETURN(const auto qemu, SaveQemu(options.peer));
  for (int run = 0; run < options.peer.machine.warmup + options.runs; ++run) {
    progress(absl::StrCat("QEMU ", run + 1));
    ASSIGN_OR_RETURN(const auto machine, qemu->Restore(false));
    if (run >= options.peer.machine.warmup) results->peer.push_back(machine->sample);
  }
  return absl::OkStatus();
}

std::optional<double> MedianReply(const std::map<Mode, ModeResults>& modes, Mode mode) {
  const auto found = modes.find(mode);
  if (found == modes.end()) return std::nullopt;
  return Percentile(FigureOf(found->second.samples, "reply_ms"), 50);
}

}  // namespace

absl::Status CheckLoad(const ColdStartOptions& options, const ClockKind& clock) {
  if (!clock.counts_instructions) return absl::OkStatus();
  std::string what;
  if (options.concurrency > 1) what = absl::StrCat("--concurrency ", options.concurrency);
  if (options.open_loop.rate > 0) what = "--rate";
  if (what.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(what,
                   ": this clock counts the instructions of one "
                   "processor, on which invocations only take "
                   "turns; use a machine with a KVM of its own, or a "
                   "closed loop with --concurrency 1"));
}

absl::StatusOr<ColdStartResults> RunColdStart(const ColdStartOptions& options,
                                              const Progress& progress) {
  ColdStartResults results;
  results.clock = MeasureClock();
  RETURN_IF_ERROR(CheckLoad(options, results.clock));
  RETURN_IF_ERROR(RunModes(options, progress, &results));
  if (options.open_loop.rate > 0) RETURN_IF_ERROR(RunOpenLoops(options, progress, &results));
  if (options.clones > 0) RETURN_IF_ERROR(RunAllClones(options, progress, &results));
  if (!options.peer.kernel.empty()) {
    const absl::Status ran = RunPeer(options, progress, &results);
    if (!ran.ok()) results.peer_failure = std::string(ran.message());
  }
  return results;
}

Comparison Compare(const std::map<Mode, ModeResults>& modes) {
  const auto waiting = MedianReply(modes, Mode::kWaiting);
  const auto warm = MedianReply(modes, Mode::kWarm);
  const auto cold = MedianReply(modes, Mode::kColdBoot);
  Comparison comparison;
  if (waiting && warm) comparison.above_warm = *waiting - *warm;
  if (waiting && cold) comparison.cold_ratio = *cold / *waiting;
  return comparison;
}

bool MeetsTargets(const ColdStartOptions& options, const ColdStartResults& results) {
  for (const BenchedFunction& function : options.functions) {
    if (!function.target.has_value()) continue;
    const auto found = results.functions.find(function.name);
    if (found == results.functions.end()) return false;
    for (const Mode mode : {Mode::kWaiting, Mode::kWarm}) {
      const auto of_mode = found->second.find(mode);
      if (of_mode == found->second.end() || !of_mode->second.failures.empty()) return false;
    }
    const auto above = Compare(found->second).above_warm;
    if (!above.has_value() || *above > *function.target) return false;
  }
  return true;
}

}  // namespace hearth::bench
