// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "absl/strings/match.h"
#include "bench/restore.h"

namespace hearth::bench {
namespace {

template <typename... Args>
std::string Print(const char* format, Args... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

double Mb(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

// What the figures are called, in the order in which they happen.
constexpr struct {
  const char* figure;
  const char* label;
} kStages[] = {{"hello_ms", "process up, Hello exchanged"},
               {"created_ms", "machine created, jailed"},
               {"started_ms", "start answered"},
               {"restored_ms", "restore answered, running"},
               {"first_byte_ms", "first byte of the guest"},
               {"agent_ready_ms", "agent ready"},
               {"cpu_ms", "CPU of the process until then"},
               {"vcpu_cpu_ms", "of this, vCPU threads"},
               {"exits", "KVM exits"},
               {"faults", "page faults"}};

const char* TitleOf(const std::string& machine) {
  if (machine == "hearth") return "hearth-vmm, do-nothing guest";
  if (machine == "qemu") return "QEMU microvm, do-nothing guest";
  if (machine == "fresh") return "hearth-vmm, restored in a new process";
  if (machine == "waiting") return "hearth-vmm, restored in a waiting one";
  if (machine == "qemu-restored") return "QEMU microvm, from a migration file";
  return "hearth-vmm, real kernel and agent";
}

nlohmann::json MemoryJson(const ProcessMemory& memory) {
  return {{"privateBytes", memory.private_bytes},
          {"dirtyBytes", memory.dirty_bytes},
          {"pssBytes", memory.pss_bytes},
          {"guestBytes", memory.guest_bytes}};
}

double Median(const BootResults& results, const char* machine, const char* figure) {
  const auto it = results.samples.find(machine);
  return it == results.samples.end() ? 0 : SummarizeFigure(it->second, figure).median;
}

}  // namespace

std::vector<Target> Targets(const BootResults& results) {
  std::vector<Target> targets;
  const double ours = Median(results, "hearth", "first_byte_ms");
  const double theirs = Median(results, "qemu", "first_byte_ms");
  if (theirs > 0) {
    targets.push_back(
        {"first byte, of QEMU's", ours / theirs, kMaxQemuRatio, kAimQemuRatio, "times"});
  }
  const auto add = [&](const char* machine, const char* name, double limit, double aim) {
    const double value = Median(results, machine, "first_byte_ms");
    if (value > 0) targets.push_back({name, value, limit, aim, "M"});
  };
  add("fresh", "new process to first byte", kMaxFreshRestore, kAimFreshRestore);
  add("waiting", "waiting process to first byte", kMaxWaitingRestore, kAimWaitingRestore);
  const char* const ours_by_name = results.benchmark == "restore" ? "fresh" : "hearth";
  if (const auto it = results.memory.find(ours_by_name); it != results.memory.end()) {
    targets.push_back({"private memory beside guest RAM", Mb(it->second.repeated.private_bytes),
                       kMaxPrivateMb, kAimPrivateMb, "MB"});
  }
  if (results.stripped_bytes == 0) return targets;
  targets.push_back(
      {"hearth-vmm, stripped", Mb(results.stripped_bytes), kMaxStrippedMb, std::nullopt, "MB"});
  return targets;
}

std::string BootText(const BootOptions& options, const BootResults& results) {
  std::string text = Print(
      "clock    %s (an addition takes %.3f ns, a division %.3f ns)\n"
      "machine  1 vCPU, %d MiB; %d runs each, interleaved, %d before them discarded\n",
      results.clock.counts_instructions ? "counts instructions: 1 \"ms\" is a million instructions"
                                        : "real time",
      results.clock.ns_per_add, results.clock.ns_per_divide, options.memory_mib, options.runs,
      options.warmup);
  for (const auto& [name, samples] : results.samples) {
    text += Print("\n%-42s %10s %10s %10s\n", TitleOf(name), "median", "min", "max");
    for (const auto& stage : kStages) {
      const Summary summary = SummarizeFigure(samples, stage.figure);
      if (summary.count == 0) continue;
      const bool is_time = absl::EndsWith(stage.figure, "_ms");
      text += Print(is_time ? "  %-40s %10.3f %10.3f %10.3f\n" : "  %-40s %10.0f %10.0f %10.0f\n",
                    stage.label, summary.median, summary.min, summary.max);
    }
    if (const auto memory = results.memory.find(name); memory != results.memory.end()) {
      const ProcessMemory& alone = memory->second.alone;
      const ProcessMemory& repeated = memory->second.repeated;
      text += Print("  memory beside guest RAM: private %.2f MB, PSS %.2f MB (alone: %.2f, %.2f)\n",
                    Mb(repeated.private_bytes), Mb(repeated.pss_bytes), Mb(alone.private_bytes),
                    Mb(alone.pss_bytes));
      text += Print("  guest RAM resident: %.2f MB\n", Mb(alone.guest_bytes));
    }
  }
  text += "\n";
  for (const Target& target : Targets(results)) {
    text += Print("%-8s %-34s %7.3f %-5s at most %.2f", target.met() ? "met" : "MISSED",
                  target.name.c_str(), target.value, target.unit.c_str(), target.limit);
    if (target.aim) {
      text += Print(", aim %.2f: %s", *target.aim, target.value <= *target.aim ? "met" : "not yet");
    }
    text += "\n";
  }
  return text;
}

nlohmann::json BootJson(const BootOptions& options, const BootResults& results) {
  nlohmann::json json = {{"benchmark", results.benchmark},
                         {"clock",
                          {{"countsInstructions", results.clock.counts_instructions},
                           {"unitOfMs", results.clock.unit()},
                           {"nsPerAdd", results.clock.ns_per_add},
                           {"nsPerDivide", results.clock.ns_per_divide}}},
                         {"memoryMib", options.memory_mib},
                         {"runs", options.runs},
                         {"warmup", options.warmup},
                         {"strippedBytes", results.stripped_bytes}};
  for (const auto& [name, samples] : results.samples) {
    nlohmann::json& machine = json["machines"][name];
    machine["samples"] = samples;
    if (const auto it = results.discarded.find(name); it != results.discarded.end()) {
      machine["discarded"] = it->second;
    }
    for (const auto& stage : kStages) {
      const Summary summary = SummarizeFigure(samples, stage.figure);
      if (summary.count > 0) machine["summary"][stage.figure] = ToJson(summary);
    }
    if (const auto it = results.memory.find(name); it != results.memory.end()) {
      machine["memory"] = {{"alone", MemoryJson(it->second.alone)},
                           {"repeated", MemoryJson(it->second.repeated)}};
    }
  }
  for (const Target& target : Targets(results)) {
    nlohmann::json entry = {{"name", target.name},
                            {"value", target.value},
                            {"limit", target.limit},
                            {"unit", target.unit},
                            {"met", target.met()}};
    if (target.aim) entry["aim"] = *target.aim;
    json["targets"].push_back(entry);
  }
  return json;
}

}  // namespace hearth::bench
