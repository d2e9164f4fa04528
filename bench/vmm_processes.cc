// SPDX-License-Identifier: Apache-2.0
#include "bench/vmm_processes.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

constexpr char kExits[] = "/sys/kernel/debug/kvm";

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// "Pss:   12 kB" of smaps_rollup and meminfo; 0 when there is no such line.
int64_t BytesOf(const std::string& text, const std::string& field) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!absl::StartsWith(line, field + ":")) continue;
    int64_t kib = 0;
    std::istringstream(line.substr(field.size() + 1)) >> kib;
    return kib * 1024;
  }
  return 0;
}

bool IsVmm(const std::string& process) {
  std::error_code error;
  const auto program = std::filesystem::read_symlink(process + "/exe", error);
  return !error && absl::StartsWith(program.filename().string(), "hearth-vmm");
}

bool HasGuest(const std::string& process) {
  // "0::/hearth/vm-7"
  const std::string cgroup = ReadWhole(process + "/cgroup");
  const size_t at = cgroup.find("0::");
  if (at == std::string::npos) return false;
  const std::string path = cgroup.substr(at + 3, cgroup.find('\n', at) - at - 3);
  const std::string limit = ReadWhole("/sys/fs/cgroup" + path + "/memory.max");
  return !limit.empty() && !absl::StartsWith(limit, "max");
}

}  // namespace

std::vector<pid_t> VmmsWithGuest() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (IsVmm(entry.path()) && HasGuest(entry.path())) found.push_back(pid);
  }
  return found;
}

std::optional<double> FaultsIn(const std::string& stat) {
  // The name, in brackets, may have anything in it; field 3 is behind the last bracket.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(stat.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 10; ++field) fields >> skipped;
  double minor = 0;
  double major = 0;
  if (!(fields >> minor >> skipped >> major)) return std::nullopt;
  return minor + major;
}

std::optional<VmmCounts> CountsOf(pid_t pid) {
  const auto faults = FaultsIn(ReadWhole(absl::StrCat("/proc/", pid, "/stat")));
  if (!faults.has_value()) return std::nullopt;
  VmmCounts counts{*faults, std::nullopt};
  std::error_code error;
  const std::string mine = absl::StrCat(pid, "-");  // PID-FD, a folder for each machine.
  for (const auto& entry : std::filesystem::directory_iterator(kExits, error)) {
    if (!absl::StartsWith(entry.path().filename().string(), mine)) continue;
    double exits = 0;
    if (std::ifstream(entry.path() / "exits") >> exits) {
      counts.exits = counts.exits.value_or(0) + exits;
    }
  }
  return counts;
}

absl::StatusOr<VmmMemory> MemoryOf(pid_t pid) {
  const std::string rollup = ReadWhole(absl::StrCat("/proc/", pid, "/smaps_rollup"));
  if (rollup.empty()) {
    return absl::NotFoundError(
        absl::StrCat("process ", pid, " has ended, or its memory may not be read: run as root"));
  }
  VmmMemory memory;
  memory.pss_bytes = BytesOf(rollup, "Pss");
  memory.private_bytes = BytesOf(rollup, "Private_Clean") + BytesOf(rollup, "Private_Dirty");
  return memory;
}

absl::StatusOr<int64_t> AvailableBytes() {
  const int64_t bytes = BytesOf(ReadWhole("/proc/meminfo"), "MemAvailable");
  if (bytes == 0) return absl::UnavailableError("/proc/meminfo has no MemAvailable");
  return bytes;
}

}  // namespace hearth::bench
