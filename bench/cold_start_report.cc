// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/cold_start.h"
#include "bench/waterfall.h"

namespace hearth::bench {
namespace {

constexpr size_t kShownFailures = 3;

std::string Number(std::optional<double> value) {
  return value.has_value() ? absl::StrFormat("%9.2f", *value) : absl::StrFormat("%9s", "-");
}

std::optional<double> Max(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  return *std::max_element(values.begin(), values.end());
}

std::string ReplyHead(const char* first) {
  return absl::StrFormat("%-10s %5s %6s %9s %9s %9s %9s %9s", first, "runs", "failed", "p50", "p90",
                         "p99", "p99.9", "max");
}

std::string ReplyLine(const char* first, const std::vector<Sample>& samples, size_t failures) {
  const std::vector<double> replies = FigureOf(samples, "reply_ms");
  std::string text = absl::StrFormat("%-10s %5d %6d", first, samples.size(), failures);
  for (const double percent : kPercents) {
    absl::StrAppend(&text, " ", Number(Percentile(replies, percent)));
  }
  return absl::StrCat(text, " ", Number(Max(replies)));
}

// Beside the reply, of each start: what the VMM process took.
constexpr struct {
  const char* figure;
  const char* label;
} kCosts[] = {{"vmm_cpu_ms", "VMM's CPU"}, {"page_faults", "faults"}, {"exits", "KVM exits"}};

std::string ModeLines(const std::map<Mode, ModeResults>& modes) {
  std::string text = ReplyHead("start");
  for (const auto& cost : kCosts) absl::StrAppendFormat(&text, " %9s", cost.label);
  text += "\n";
  for (const auto& [mode, results] : modes) {
    if (!results.skipped.empty()) {
      absl::StrAppendFormat(&text, "%-10s not measured: %s\n", NameOf(mode), results.skipped);
      continue;
    }
    absl::StrAppend(&text, ReplyLine(NameOf(mode), results.samples, results.failures.size()));
    for (const auto& cost : kCosts) {
      absl::StrAppend(&text, " ", Number(Percentile(FigureOf(results.samples, cost.figure), 50)));
    }
    absl::StrAppend(&text, "\n", FailureLines(results.failures));
  }
  return text;
}

std::string StationLines(const std::map<Mode, ModeResults>& modes) {
  std::string text = absl::StrFormat("%-36s", "since the client sent, p50");
  for (const auto& [mode, results] : modes) {
    if (!results.samples.empty()) absl::StrAppendFormat(&text, " %9s", NameOf(mode));
  }
  text += "\n";
  for (const Station& station : kStations) {
    std::string line = absl::StrFormat("  %-34s", station.label);
    bool any = false;
    for (const auto& [mode, results] : modes) {
      if (results.samples.empty()) continue;
      const auto value = Percentile(FigureOf(results.samples, station.figure), 50);
      any = any || value.has_value();
      absl::StrAppend(&line, " ", Number(value));
    }
    if (any) absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string ComparisonLines(const BenchedFunction& function, const ColdStartResults& results,
                            const std::map<Mode, ModeResults>& modes) {
  const Comparison comparison = Compare(modes);
  std::string text;
  if (comparison.above_warm.has_value()) {
    absl::StrAppendFormat(&text, "restored into a waiting VMM minus warm: %.2f %s",
                          *comparison.above_warm, results.clock.unit());
    if (function.target.has_value()) {
      absl::StrAppendFormat(&text, " (at most %g): %s", *function.target,
                            *comparison.above_warm <= *function.target ? "met" : "MISSED");
    }
    text += "\n";
  }
  if (comparison.cold_ratio.has_value()) {
    absl::StrAppendFormat(&text, "a cold boot takes %.1f times as long as that restore\n",
                          *comparison.cold_ratio);
  }
  return text;
}

std::vector<Waterfall> WaterfallsOf(const std::string& function, const std::string& unit,
                                    const std::map<Mode, ModeResults>& modes) {
  std::vector<Waterfall> waterfalls;
  for (const auto& [mode, results] : modes) {
    if (results.samples.empty()) continue;
    waterfalls.push_back(
        MakeWaterfall(absl::StrCat(function, ", ", NameOf(mode)), unit, results.samples));
  }
  return waterfalls;
}

std::string OpenLoopText(const OpenLoopOptions& options, const OpenLoopResults& results) {
  std::string text = absl::StrFormat(
      "open loop, %g requests a second for %g s, %s; counted from when each "
      "was due\n",
      options.rate, options.seconds,
      options.arrivals == ArrivalKind::kPoisson ? "Poisson" : "fixed gaps");
  std::vector<Sample> all;
  for (const auto& [start, samples] : results.starts) {
    all.insert(all.end(), samples.begin(), samples.end());
  }
  absl::StrAppend(&text, ReplyHead("start"), "\n", ReplyLine("all", all, results.failures.size()),
                  "\n");
  for (const auto& [start, samples] : results.starts) {
    absl::StrAppend(&text, ReplyLine("", samples, 0), "  ", start, "\n");
  }
  absl::StrAppendFormat(&text, "sent late by: p50 %s, max %s\n",
                        Number(Percentile(FigureOf(all, "late_ms"), 50)),
                        Number(Max(FigureOf(all, "late_ms"))));
  return text + FailureLines(results.failures);
}

std::string ClonesText(const ClonesResults& clones) {
  if (!clones.failure.empty()) return absl::StrCat("clones: not measured: ", clones.failure, "\n");
  return absl::StrFormat(
      "%d clones alive, each having answered: %.2f MB of "
      "PSS each, %.2f MB private, %.2f MB of the "
      "host's MemAvailable\n",
      clones.alive, clones.pss_bytes / 1e6, clones.private_bytes / 1e6,
      clones.available_lost_bytes / 1e6);
}

nlohmann::json OpenLoopJson(const OpenLoopOptions& options, const OpenLoopResults& results) {
  nlohmann::json json = {
      {"rate", options.rate},
      {"seconds", options.seconds},
      {"arrivals", options.arrivals == ArrivalKind::kPoisson ? "poisson" : "fixed"},
      {"seed", options.seed},
      {"failures", results.failures}};
  for (const auto& [start, samples] : results.starts) {
    json["starts"][start] = {{"samples", samples},
                             {"reply", PercentilesJson(FigureOf(samples, "reply_ms"))}};
  }
  return json;
}

std::string FunctionText(const ColdStartOptions& options, const BenchedFunction& function,
                         const ColdStartResults& results) {
  std::string text =
      absl::StrFormat("\n%s, %d bytes of payload\n", function.name, function.call.payload.size());
  if (const auto found = results.functions.find(function.name); found != results.functions.end()) {
    absl::StrAppend(&text, ModeLines(found->second), "\n", StationLines(found->second), "\n");
    for (const Waterfall& waterfall :
         WaterfallsOf(function.name, results.clock.unit(), found->second)) {
      absl::StrAppend(&text, WaterfallText(waterfall), "\n");
    }
    absl::StrAppend(&text, ComparisonLines(function, results, found->second));
  }
  if (const auto open = results.open_loops.find(function.name); open != results.open_loops.end()) {
    absl::StrAppend(&text, OpenLoopText(options.open_loop, open->second));
  }
  if (const auto clones = results.clones.find(function.name); clones != results.clones.end()) {
    absl::StrAppend(&text, ClonesText(clones->second));
  }
  return text;
}

}  // namespace

std::string FailureLines(const std::vector<std::string>& failures) {
  std::string text;
  for (size_t i = 0; i < std::min(failures.size(), kShownFailures); ++i) {
    absl::StrAppend(&text, "           ", failures[i], "\n");
  }
  if (failures.size() > kShownFailures) {
    absl::StrAppend(&text, "           and ", failures.size() - kShownFailures, " more\n");
  }
  return text;
}

std::string ColdStartSvg(const ColdStartResults& results) {
  std::vector<Waterfall> all;
  for (const auto& [function, modes] : results.functions) {
    for (Waterfall& waterfall : WaterfallsOf(function, results.clock.unit(), modes)) {
      all.push_back(std::move(waterfall));
    }
  }
  return WaterfallSvg(all);
}

std::string ColdStartText(const ColdStartOptions& options, const ColdStartResults& results) {
  std::string text =
      absl::StrFormat("clock    %s; all times in %s\n",
                      results.clock.counts_instructions ? "counts instructions" : "real time",
                      results.clock.unit());
  absl::StrAppendFormat(&text, "load     closed loop, %d at once; from sending to the last byte\n",
                        options.concurrency);
  for (const BenchedFunction& function : options.functions) {
    absl::StrAppend(&text, FunctionText(options, function, results));
  }
  if (!results.peer.empty()) {
    absl::StrAppendFormat(&text,
                          "\nQEMU microvm from a migration file, spawn to the guest's first "
                          "byte: p50 %.2f\n",
                          Percentile(FigureOf(results.peer, "first_byte_ms"), 50).value_or(0));
  }
  if (!results.peer_failure.empty()) {
    absl::StrAppend(&text, "\nQEMU: not measured: ", results.peer_failure, "\n");
  }
  return text;
}

nlohmann::json ColdStartJson(const ColdStartOptions& options, const ColdStartResults& results) {
  nlohmann::json json = {{"benchmark", "cold-start"},
                         {"clock",
                          {{"countsInstructions", results.clock.counts_instructions},
                           {"unitOfMs", results.clock.unit()}}},
                         {"concurrency", options.concurrency},
                         {"runs", options.runs},
                         {"warmup", options.warmup}};
  for (const BenchedFunction& function : options.functions) {
    nlohmann::json& of_function = json["functions"][function.name];
    of_function["payloadBytes"] = function.call.payload.size();
    if (function.target) of_function["target"] = *function.target;
    if (const auto open = results.open_loops.find(function.name);
        open != results.open_loops.end()) {
      of_function["openLoop"] = OpenLoopJson(options.open_loop, open->second);
    }
    if (const auto clones = results.clones.find(function.name); clones != results.clones.end()) {
      of_function["clones"] = {{"alive", clones->second.alive},
                               {"failure", clones->second.failure},
                               {"pssBytes", clones->second.pss_bytes},
                               {"privateBytes", clones->second.private_bytes},
                               {"memAvailableLostBytes", clones->second.available_lost_bytes}};
    }
    const auto found = results.functions.find(function.name);
    if (found == results.functions.end()) continue;
    for (const auto& [mode, of_mode] : found->second) {
      nlohmann::json& listed = of_function["starts"][NameOf(mode)];
      if (!of_mode.skipped.empty()) listed["skipped"] = of_mode.skipped;
      listed["failures"] = of_mode.failures;
      listed["discarded"] = of_mode.discarded;
      listed["samples"] = of_mode.samples;
      listed["reply"] = PercentilesJson(FigureOf(of_mode.samples, "reply_ms"));
    }
    const Comparison comparison = Compare(found->second);
    if (comparison.above_warm) of_function["waitingMinusWarm"] = *comparison.above_warm;
    if (comparison.cold_ratio) of_function["coldBootOfWaiting"] = *comparison.cold_ratio;
  }
  if (!results.peer_failure.empty()) json["peerFailure"] = results.peer_failure;
  if (!results.peer.empty()) json["qemuMicrovmFromMigrationFile"] = results.peer;
  return json;
}

}  // namespace hearth::bench
