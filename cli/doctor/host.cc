// SPDX-License-Identifier: Apache-2.0
// What the host has besides KVM, and the decision.
#include "cli/doctor/host.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_split.h"
#include "cli/format.h"

namespace hearth::cli {
namespace {

// A small instance and what stands around it; a comfortable disk for images and code.
constexpr int64_t kMinMemoryBytes = 512LL << 20;
constexpr int64_t kMinDiskBytes = 2LL << 30;

std::string ReadWord(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

int64_t AvailableMemory() {
  int64_t bytes = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("MemAvailable:", 0) == 0) bytes = std::atoll(line.c_str() + 13) * 1024;
  }
  // A container's limit counts, in both versions of cgroups.
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const std::string limit = ReadWord(path);
    if (!limit.empty() && limit != "max")
      bytes = std::min<int64_t>(bytes, std::atoll(limit.c_str()));
  }
  return bytes;
}

Check MemoryCheck() {
  const int64_t bytes = AvailableMemory();
  Check check{"memory", Check::State::kGood, FormatBytes(bytes) + " available", ""};
  if (bytes < kMinMemoryBytes) {
    check.state = Check::State::kBad;
    check.advice = "An instance takes 128 MiB at least; free some, or use a larger machine.";
  }
  return check;
}

Check DiskCheck(const std::string& folder) {
  // The folder may not be there yet: then the one it will be made in counts.
  std::filesystem::path path = std::filesystem::absolute(folder);
  std::error_code error;
  while (!std::filesystem::exists(path, error) && path.has_relative_path())
    path = path.parent_path();
  Check check{"disk", Check::State::kGood, "", ""};
  struct statvfs info {};
  if (statvfs(path.c_str(), &info) != 0) {
    check.state = Check::State::kBad;
    check.text = "cannot look at " + path.string();
    return check;
  }
  const int64_t bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  check.text = FormatBytes(bytes) + " free at " + path.string();
  if (bytes < kMinDiskBytes) {
    check.state = Check::State::kBad;
    check.advice = "Images and code need about " + FormatBytes(kMinDiskBytes) +
                   "; free some, or name another folder with --data.";
  }
  return check;
}

Check CgroupCheck() {
  std::ifstream file("/sys/fs/cgroup/cgroup.controllers");
  std::string line;
  const bool v2 = static_cast<bool>(std::getline(file, line)) ||
                  std::filesystem::exists("/sys/fs/cgroup/cgroup.controllers");
  Check check{"cgroups", Check::State::kGood, "", ""};
  std::string missing;
  const std::vector<std::string> controllers = absl::StrSplit(line, ' ');
  for (const char* needed : {"cpu", "memory", "pids"}) {
    if (std::find(controllers.begin(), controllers.end(), needed) == controllers.end()) {
      missing += (missing.empty() ? "" : ", ") + std::string(needed);
    }
  }
  if (!v2) {
    check.state = Check::State::kNote;
    check.text = "no cgroup v2 at /sys/fs/cgroup: microVMs run without the host's limits on them";
    check.advice = "Boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there.";
  } else if (!missing.empty()) {
    check.state = Check::State::kNote;
    check.text = "v2 without " + missing + ": microVMs run without those limits of the host's";
  } else {
    check.text = "v2 with cpu, memory, pids";
  }
  return check;
}

bool InPath(const std::string& program) {
  const char* path = std::getenv("PATH");
  for (const auto& folder : absl::StrSplit(path != nullptr ? path : "/usr/bin:/bin", ':')) {
    if (access((std::string(folder) + "/" + program).c_str(), X_OK) == 0) return true;
  }
  // Where administrators' programs are, whoever asks.
  return access(("/usr/sbin/" + program).c_str(), X_OK) == 0;
}

Check ProgramCheck(const std::string& name, const std::string& program, const std::string& package,
                   const std::string& use, Check::State without) {
  if (InPath(program)) return {name, Check::State::kGood, program + " is there, " + use, ""};
  return {name, without, program + " is missing, " + use, "apt-get install " + package};
}

Check DaemonCheck(const std::string& socket) {
  const Failure failure = ProbeSocket(socket);
  if (failure.message.empty()) {
    return {"hearthd", Check::State::kGood, "listens on " + socket, ""};
  }
  return {"hearthd", Check::State::kNote, failure.message,
          failure.advice.empty() ? "" : failure.advice.front()};
}

}  // namespace

Diagnosis Diagnose(const GlobalOptions& global, const DoctorOptions& options) {
  Diagnosis diagnosis;
  diagnosis.probe = RunProbe(options.probe, options.device);
  const KvmVerdict kvm = JudgeProbe(diagnosis.probe, options.device);
  diagnosis.checks.push_back({"KVM", kvm.usable ? Check::State::kGood : Check::State::kBad,
                              (kvm.usable ? "usable: " : "not usable: ") + kvm.why, kvm.advice});
  diagnosis.checks.push_back(MemoryCheck());
  diagnosis.checks.push_back(DiskCheck(options.folder));
  diagnosis.checks.push_back(CgroupCheck());
  diagnosis.checks.push_back(ProgramCheck("erofs", "mkfs.erofs", "erofs-utils",
                                          "which builds disks of code", Check::State::kBad));
  const Check::State needed = kvm.usable ? Check::State::kNote : Check::State::kBad;
  diagnosis.checks.push_back(ProgramCheck("qemu", "qemu-system-x86_64", "qemu-system-x86",
                                          "which is the emulated machine", needed));
  diagnosis.checks.push_back(ProgramCheck("busybox", "busybox", "busybox-static",
                                          "which starts the emulated machine", needed));
  diagnosis.checks.push_back(
      {"vhost", Check::State::kGood, "not needed: vsock is hearth-vmm's own", ""});
  diagnosis.checks.push_back(DaemonCheck(global.socket));
  if (kvm.usable) {
    diagnosis.way = Way::kDirect;
    return diagnosis;
  }
  diagnosis.why = kvm.why;
  if (InPath("qemu-system-x86_64") && InPath("busybox")) {
    diagnosis.way = Way::kTestbed;
    diagnosis.cost = "every instruction is emulated: seconds where hardware takes milliseconds";
  }
  return diagnosis;
}

std::string Headline(const Diagnosis& diagnosis) {
  switch (diagnosis.way) {
    case Way::kDirect:
      return "KVM: usable";
    case Way::kTestbed:
      return "KVM: not usable (" + diagnosis.why + ") -> an emulated machine (tests/testbed); " +
             diagnosis.cost;
    case Way::kNone:
      break;
  }
  return "KVM: not usable (" + diagnosis.why +
         ") -> nothing else is here: apt-get install qemu-system-x86 busybox-static";
}

}  // namespace hearth::cli
