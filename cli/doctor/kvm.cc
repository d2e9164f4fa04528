// SPDX-License-Identifier: Apache-2.0
// The part of the diagnosis that is about KVM.
#include <cstdio>

#include "absl/status/status.h"
#include "cli/doctor/host.h"
#include "cli/doctor/programs.h"

namespace hearth::cli {
namespace {

nlohmann::json Unprobed(absl::StatusCode code, const std::string& message) {
  return {{"deviceStatus", {{"code", static_cast<int>(code)}, {"message", message}}},
          {"usable", false}};
}

std::string Million(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, per_second < 99.5e6 ? "%.1f" : "%.0f", per_second / 1e6);
  return text;
}

}  // namespace

nlohmann::json RunProbe(const std::string& probe, const std::string& device) {
  const std::string found = probe.empty() ? FindProgram("hearth-kvm-probe") : probe;
  const std::string program = found.empty() ? "hearth-kvm-probe" : found;
  const absl::StatusOr<ProgramResult> ran = RunProgram({program, device}, /*errors=*/false);
  if (!ran.ok()) return Unprobed(ran.status().code(), std::string(ran.status().message()));
  nlohmann::json report = nlohmann::json::parse(ran->output, nullptr, false);
  if (ran->wait_status != 0 || report.is_discarded()) {
    return Unprobed(absl::StatusCode::kInternal,
                    program + " ended with wait status " + std::to_string(ran->wait_status));
  }
  return report;
}

KvmVerdict JudgeProbe(const nlohmann::json& probe, const std::string& device) {
  KvmVerdict verdict;
  const auto& opened = probe.at("deviceStatus");
  const auto code = static_cast<absl::StatusCode>(opened.at("code").get<int>());
  if (code == absl::StatusCode::kNotFound) {
    verdict.why = "there is no " + device;
    verdict.advice =
        "Load kvm_intel or kvm_amd (modprobe), or switch virtualisation on in the firmware or for "
        "this virtual machine.";
    return verdict;
  }
  if (code == absl::StatusCode::kPermissionDenied) {
    verdict.why = "you may not open " + device;
    verdict.advice =
        "Join the group kvm (usermod -aG kvm USER, then log in again), or run as root.";
    return verdict;
  }
  if (code != absl::StatusCode::kOk) {
    verdict.why = opened.at("message").get<std::string>();
    return verdict;
  }
  if (const auto& machine = probe.at("machineStatus"); machine.at("code").get<int>() != 0) {
    verdict.why = "it cannot run a tiny guest: " + machine.at("message").get<std::string>();
    return verdict;
  }
  const double speed = probe.at("kernelInstructionsPerSecond").get<double>();
  const std::string speed_text =
      "kernel mode runs at " + Million(speed) + " million instructions a second";
  std::string missing;
  for (const auto& instruction : probe.at("instructions")) {
    if (instruction.at("works").get<bool>()) continue;
    missing += (missing.empty() ? "" : ", ") + instruction.at("name").get<std::string>();
  }
  if (!probe.at("fast").get<bool>()) verdict.why = speed_text;
  if (!missing.empty()) {
    verdict.why += (verdict.why.empty() ? "" : ", ") + std::string("without ") + missing;
  }
  verdict.usable = verdict.why.empty();
  if (verdict.usable) {
    verdict.why = speed_text;
  } else {
    verdict.advice = "This KVM interprets a guest's kernel mode; Linux needs one with VT-x or SVM.";
  }
  return verdict;
}

}  // namespace hearth::cli
