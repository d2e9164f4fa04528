// SPDX-License-Identifier: Apache-2.0
// Processors in libvirt's words (libvirt.org/formatcaps.html), for commands that end when they have
// answered: both functions begin and end libvirt, so a process has no Hypervisor beside them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::libvirt {

struct CpuDescription {
  std::string model;               // Of libvirt's map: "Skylake-Server".
  std::vector<std::string> more;   // Features beyond the model's.
  std::vector<std::string> fewer;  // Features of the model that are missing.
  std::string xml;                 // The element <cpu>.
};

struct NamedCpu {
  std::string name;  // For errors.
  std::string xml;   // An element <cpu>, as hosts describe theirs.
};

// This host's, by libvirt's QEMU driver inside this process: without a daemon, without root, and
// without QEMU. Changes this process's environment. FAILED_PRECONDITION when libvirt cannot tell.
absl::StatusOr<CpuDescription> DescribeHostCpu();

// What all of `cpus` can do. INVALID_ARGUMENT names the one that is too large or that libvirt does
// not understand; FAILED_PRECONDITION: they have nothing in common.
absl::StatusOr<CpuDescription> BaselineCpu(const std::vector<NamedCpu>& cpus);

// Of an element <cpu> that libvirt made.
absl::StatusOr<CpuDescription> ReadCpu(absl::string_view xml);

}  // namespace hearth::libvirt
