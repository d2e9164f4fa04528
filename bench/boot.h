// SPDX-License-Identifier: Apache-2.0
// `hearth-bench boot`: the runs, interleaved, and what they are held against.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/clock.h"
#include "bench/machines.h"

namespace hearth::bench {

// What issue 2 asks of hearth-vmm.
inline constexpr double kMaxQemuRatio = 0.12;
inline constexpr double kAimQemuRatio = 0.08;
inline constexpr double kMaxPrivateMb = 1.5;
inline constexpr double kAimPrivateMb = 0.6;
inline constexpr double kMaxStrippedMb = 3.0;

struct BootResults {
  std::string benchmark = "boot";
  ClockKind clock;
  // By machine: "hearth", "qemu", "agent"; those of restore.h. The first `warmup` of each are in
  // `discarded`.
  std::map<std::string, std::vector<Sample>> samples;
  std::map<std::string, std::vector<Sample>> discarded;
  struct Memory {
    ProcessMemory alone;     // The only machine of its kind.
    ProcessMemory repeated;  // With another one, that shares the program's pages with it.
  };
  std::map<std::string, Memory> memory;
  int64_t stripped_bytes = 0;  // 0: not measured.
};

// How a machine is brought to its first byte.
using NamedBoot =
    std::pair<std::string, std::function<absl::StatusOr<std::unique_ptr<BootedMachine>>()>>;
// Runs all machines in turn, so that what changes on the host meets each, then measures their
// memory. `progress` is told what runs next.
absl::Status RunInTurns(const std::vector<NamedBoot>& machines, const BootOptions& options,
                        const std::function<void(const std::string&)>& progress,
                        BootResults* results);

absl::StatusOr<BootResults> RunBoot(const BootOptions& options,
                                    const std::function<void(const std::string&)>& progress);

struct Target {
  std::string name;
  double value = 0;
  double limit = 0;
  std::optional<double> aim;
  std::string unit;
  bool met() const { return value <= limit; }
};
// Those that the results can be held against.
std::vector<Target> Targets(const BootResults& results);

std::string BootText(const BootOptions& options, const BootResults& results);
nlohmann::json BootJson(const BootOptions& options, const BootResults& results);

}  // namespace hearth::bench
