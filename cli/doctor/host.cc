// SPDX-License-Identifier: Apache-2.0
// What the host has besides KVM and libvirt, and the whole diagnosis.
#include "cli/doctor/host.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/doctor/cpu.h"
#include "cli/doctor/programs.h"
#include "cli/format.h"
#include "vmm/base/host_memory.h"

namespace hearth::cli {
namespace {

// A small instance and what stands around it; a comfortable disk for images and code.
constexpr int64_t kMinMemoryBytes = 512LL << 20;
constexpr int64_t kMinDiskBytes = 2LL << 30;

Check MemoryCheck() {
  const auto bytes = static_cast<int64_t>(ReadHostMemory().available);
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

Check ProgramCheck(const std::string& name, const std::string& program, const std::string& package,
                   const std::string& use) {
  if (!FindProgram(program).empty())
    return {name, Check::State::kGood, program + " is there, " + use, ""};
  return {name, Check::State::kBad, program + " is missing, " + use, "apt-get install " + package};
}

Check DaemonCheck(const std::string& socket) {
  const Failure failure = ProbeSocket(socket);
  if (failure.message.empty()) {
    return {"hearthd", Check::State::kGood, "listens on " + socket, ""};
  }
  return {"hearthd", Check::State::kNote, failure.message,
          failure.advice.empty() ? "" : failure.advice.front()};
}

Check VmmCheck() {
  std::string missing;
  for (const char* program : {"hearth-launcher", "hearth-vmm"}) {
    if (FindProgram(program).empty()) {
      absl::StrAppend(&missing, missing.empty() ? "" : " and ", program);
    }
  }
  if (missing.empty()) {
    return {"vmm", Check::State::kGood, "hearth-launcher and hearth-vmm are there", ""};
  }
  return {
      "vmm", Check::State::kBad,
      missing + (missing.find(' ') == std::string::npos ? " is missing" : " are missing"),
      "Build them (the targets hearth-launcher and hearth-vmm), or install them beside hearth."};
}

// What tests/testbed needs, beside its kernel, which is built on demand.
std::vector<Check> TestbedChecks() {
  return {
      ProgramCheck("testbed", "qemu-system-x86_64", "qemu-system-x86",
                   "which is the emulated machine"),
      ProgramCheck("busybox", "busybox", "busybox-static", "which starts the emulated machine")};
}

Check RootCheck() {
  if (geteuid() == 0) {
    return {"root", Check::State::kGood, "hearth-launcher and hearth-libvirt can be started", ""};
  }
  return {"root", Check::State::kNote,
          "you are not root, which starts hearth-launcher and hearth-libvirt",
          "Start them by sudo; hearthd and hearth need no root."};
}

// What is bad, in one line; empty: nothing.
std::string Missing(const std::vector<Check>& checks) {
  std::string texts;
  for (const Check& check : checks) {
    if (check.state == Check::State::kBad) {
      absl::StrAppend(&texts, texts.empty() ? "" : ", ", check.text);
    }
  }
  return texts;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

Check VmStartCheck(const std::string& nx_huge_pages, const std::string& mounts) {
  bool favoured = true;  // Without cgroup2 there is nothing to be slow.
  for (const absl::string_view line : absl::StrSplit(mounts, '\n')) {
    // "... - cgroup2 SOURCE OPTIONS", proc_pid_mountinfo(5).
    if (!absl::StrContains(line, " - cgroup2 ")) continue;
    favoured = absl::StrContains(line, "favordynmods");
    break;
  }
  if (favoured || nx_huge_pages == "never") {
    return {"VM start", Check::State::kGood, "cgroups do not slow the making of VMs down", ""};
  }
  return {
      "VM start", Check::State::kNote,
      "cgroups may slow the making of each VM down, by up to tens of ms: kvm.nx_huge_pages is " +
          nx_huge_pages + ", cgroup2 is mounted without favordynmods",
      "mount -o remount,favordynmods /sys/fs/cgroup; or kvm.nx_huge_pages=never, on a processor "
      "without the erratum iTLB multihit."};
}

Diagnosis Diagnose(const GlobalOptions& global, const DoctorOptions& options,
                   const std::function<void(const std::string&)>& show) {
  const Backend only = options.backend == "kvm"       ? Backend::kKvm
                       : options.backend == "libvirt" ? Backend::kLibvirt
                                                      : Backend::kNone;
  Diagnosis diagnosis;
  std::vector<Check>& checks = diagnosis.checks;
  Measured measured;
  show("measuring KVM ...");
  diagnosis.probe = RunProbe(options.probe, options.device);
  measured.kvm = JudgeProbe(diagnosis.probe, options.device);
  checks.push_back({"KVM", measured.kvm.usable ? Check::State::kGood : Check::State::kBad,
                    (measured.kvm.usable ? "usable: " : "not usable: ") + measured.kvm.why,
                    measured.kvm.advice});
  show("asking libvirt about the processor ...");
  diagnosis.cpu = DescribeCpu(options.libvirt);
  checks.push_back(CpuCheck(diagnosis.cpu));
  show("looking for what the backends need ...");
  const Check vmm = VmmCheck();
  std::vector<Check> libvirt;
  if (only != Backend::kKvm) libvirt = CheckLibvirt(UsualLibvirtPlaces());
  const std::vector<Check> testbed = TestbedChecks();
  measured.vmm_missing = Missing({vmm});
  measured.libvirt_missing = Missing(libvirt);
  measured.testbed = Missing(testbed).empty();
  diagnosis.choice = Choose(measured, only);
  // What is missing for a backend that was not chosen, though it was considered, hinders nobody.
  const auto add = [&](Check check, bool needed) {
    if (check.state == Check::State::kBad && !needed) check.state = Check::State::kNote;
    checks.push_back(std::move(check));
  };
  const Backend chosen = diagnosis.choice.backend;
  if (only != Backend::kLibvirt) add(vmm, measured.kvm.usable || chosen == Backend::kNone);
  for (const Check& check : libvirt) add(check, chosen == Backend::kNone);
  if (only != Backend::kLibvirt) {
    for (const Check& check : testbed) add(check, false);
  }
  checks.push_back(RootCheck());
  checks.push_back(MemoryCheck());
  checks.push_back(DiskCheck(options.folder));
  checks.push_back(CgroupCheck());
  const std::string nx_huge_pages(
      absl::StripAsciiWhitespace(ReadText("/sys/module/kvm/parameters/nx_huge_pages")));
  if (!nx_huge_pages.empty()) {
    checks.push_back(VmStartCheck(nx_huge_pages, ReadText("/proc/self/mountinfo")));
  }
  checks.push_back(
      ProgramCheck("erofs", "mkfs.erofs", "erofs-utils", "which builds disks of code"));
  checks.push_back(DaemonCheck(global.socket));
  return diagnosis;
}

}  // namespace hearth::cli
