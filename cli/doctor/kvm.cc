// SPDX-License-Identifier: Apache-2.0
// The part of the diagnosis that is about KVM.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/status/status.h"
#include "cli/doctor/host.h"
#include "vmm/base/unique_fd.h"

namespace hearth::cli {
namespace {

nlohmann::json Unprobed(absl::StatusCode code, const std::string& message) {
  return {{"deviceStatus", {{"code", static_cast<int>(code)}, {"message", message}}},
          {"usable", false}};
}

std::string Beside(const char* program) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  for (const auto& folder : {self.parent_path(), self.parent_path() / "../libexec/hearth",
                             self.parent_path() / "../vmm/kvm"}) {
    if (access((folder / program).c_str(), X_OK) == 0) return folder / program;
  }
  return (self.parent_path() / program).string();
}

std::string Million(double per_second) {
  char text[32];
  std::snprintf(text, sizeof text, per_second < 99.5e6 ? "%.1f" : "%.0f", per_second / 1e6);
  return text;
}

}  // namespace

nlohmann::json RunProbe(const std::string& probe, const std::string& device) {
  const std::string program = probe.empty() ? Beside("hearth-kvm-probe") : probe;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return Unprobed(absl::StatusCode::kInternal, std::strerror(errno));
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  std::string name = program;
  std::string argument = device;
  char* argv[] = {name.data(), argument.data(), nullptr};
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return Unprobed(absl::StatusCode::kUnknown,
                    "cannot run " + program + ": " + std::strerror(error));
  }
  writer.reset();
  std::string output;
  char buffer[4096];
  while (true) {
    const ssize_t count = read(reader.get(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    output.append(buffer, static_cast<size_t>(count));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  nlohmann::json report = nlohmann::json::parse(output, nullptr, false);
  if (status != 0 || report.is_discarded()) {
    return Unprobed(absl::StatusCode::kInternal,
                    program + " ended with wait status " + std::to_string(status));
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
