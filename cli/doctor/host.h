// SPDX-License-Identifier: Apache-2.0
// What `hearth doctor` finds, and what follows from it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace hearth::cli {

// doctor's own exit codes; 0 is kDirect.
inline constexpr int kExitTestbedOnly = 5;
inline constexpr int kExitNoWay = 6;

struct Check {
  enum class State { kGood, kNote, kBad };
  std::string name;
  State state = State::kGood;
  std::string text;
  std::string advice;  // What to do; empty when there is nothing to be done.
};

enum class Way { kDirect, kTestbed, kNone };

struct Diagnosis {
  Way way = Way::kNone;
  std::string why;   // Why not directly; empty for kDirect.
  std::string cost;  // What the way costs; empty for kDirect.
  std::vector<Check> checks;
  nlohmann::json probe;  // hearth-kvm-probe's report, for machines.
};

// What one line says about a probe's report ("usable: ..." or why not).
struct KvmVerdict {
  bool usable = false;
  std::string why;
  std::string advice;
};
KvmVerdict JudgeProbe(const nlohmann::json& probe, const std::string& device);

// The output of hearth-kvm-probe on `device`; deviceStatus tells when the probe itself cannot be
// run.
nlohmann::json RunProbe(const std::string& probe, const std::string& device);

Diagnosis Diagnose(const GlobalOptions& global, const DoctorOptions& options);

// The line that quickstart shows, without its label: "KVM: usable", "KVM: not usable (why) -> ...".
std::string Headline(const Diagnosis& diagnosis);

}  // namespace hearth::cli
