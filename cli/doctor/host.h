// SPDX-License-Identifier: Apache-2.0
// What `hearth doctor` finds, and what follows from it.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/doctor/choice.h"

namespace hearth::cli {

// doctor's own exit codes; 0: a backend serves, or the one that --backend names does.
inline constexpr int kExitTestbedOnly = 5;
inline constexpr int kExitNoWay = 6;

struct Check {
  enum class State { kGood, kNote, kBad };
  std::string name;
  State state = State::kGood;
  std::string text;
  std::string advice;  // What to do; empty when there is nothing to be done.
};

// NOLINTNEXTLINE(bugprone-exception-escape): JSON only looks as if its destructor could throw.
struct Diagnosis {
  Choice choice;
  std::vector<Check> checks;
  nlohmann::json probe;  // hearth-kvm-probe's report, for machines.
  nlohmann::json cpu;    // DescribeCpu()
};

KvmVerdict JudgeProbe(const nlohmann::json& probe, const std::string& device);

// The output of hearth-kvm-probe on `device`; deviceStatus tells when the probe itself cannot be
// run.
nlohmann::json RunProbe(const std::string& probe, const std::string& device);

// Where what hearth-libvirt needs is looked for.
struct LibvirtPlaces {
  std::string helper;                       // hearth-libvirt; empty: it is nowhere.
  std::string qemu;                         // qemu-system-x86_64; empty: it is nowhere.
  std::vector<std::string> driver_folders;  // One of them has libvirt's QEMU driver.
  std::string user = "libvirt-qemu";        // And group: the driver wants both, also as root.
};
LibvirtPlaces UsualLibvirtPlaces();
// Good or bad each; all must be good.
std::vector<Check> CheckLibvirt(const LibvirtPlaces& places);

// Whether cgroups slow KVM_CREATE_VM down: by the value of /sys/module/kvm/parameters/nx_huge_pages
// and the text of /proc/self/mountinfo.
Check VmStartCheck(const std::string& nx_huge_pages, const std::string& mounts);

// `show` is told what is under way.
Diagnosis Diagnose(const GlobalOptions& global, const DoctorOptions& options,
                   const std::function<void(const std::string&)>& show);

}  // namespace hearth::cli
