// SPDX-License-Identifier: Apache-2.0
// Finds out what a /dev/kvm can do by running tiny guests on it: nothing is concluded from its
// name or version. Some KVMs interpret a guest's kernel mode, at a thousandth of the speed and
// without some instructions; Linux does not boot on those.
#pragma once

#include <string>
#include <vector>

#include "vmm/base/status.h"

namespace hearth::vmm {

// Below this, kernel mode is interpreted: hardware and even QEMU's emulation of SVM are far above,
// interpreters a factor of ten below.
inline constexpr double kMinKernelInstructionsPerSecond = 20e6;
// A guest that has not come back by then never will.
inline constexpr int kProbeGuestSeconds = 5;

struct ProbeReport {
  absl::Status device;   // Opening it and asking for its version: NOT_FOUND, PERMISSION_DENIED, ...
  absl::Status machine;  // Making and entering a machine; meaningless unless `device` is OK.
  double create_ms = 0;  // Machine, memory and vCPU.
  double kernel_instructions_per_second = 0;  // CPL 0, a loop of register instructions.
  double exit_us = 0;                         // One port write and back.
  struct Instruction {
    std::string name;
    bool works = false;
    std::string detail;  // What happened instead.
  };
  std::vector<Instruction> instructions;  // In CPL 0; those that Linux needs to boot.

  bool fast() const { return kernel_instructions_per_second >= kMinKernelInstructionsPerSecond; }
  // Everything is there that booting Linux takes.
  bool usable() const;
};

// Takes at most a second where kernel mode is interpreted, some milliseconds elsewhere. Uses
// SIGALRM and ITIMER_REAL of the process while it runs; call from a process of its own.
ProbeReport ProbeKvm(const std::string& device);

}  // namespace hearth::vmm
