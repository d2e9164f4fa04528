// SPDX-License-Identifier: Apache-2.0
#include "vmm/arch/x86_64/msrs.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace hearth::vmm::x86_64 {
namespace {

struct MsrRange {
  uint32_t first;
  uint32_t last;
};

// In the kernel's list, but not for guests of ours: their CPUID shows none of it.
constexpr MsrRange kLeftOut[] = {
    {0x17b, 0x17b},  // IA32_MCG_CTL: not there unless IA32_MCG_CAP says so.
    {0xc1, 0xc8},    // Performance counters and their events: Intel's
    {0x186, 0x18d},
    {0x309, 0x30c},
    {0x345, 0x345},
    {0x38d, 0x391},
    {0x3f1, 0x3f1},
    {0x4c1, 0x4c8},
    {0xc0010000, 0xc0010007},  // and AMD's.
    {0xc0010200, 0xc001020f},
    {0xc0000300, 0xc0000303},
    {0x480, 0x493},            // VMX.
    {0xc0010114, 0xc0010117},  // SVM: VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA.
    {0x40000000, 0x400001ff},  // Hyper-V's.
};

// Not in the kernel's list.
constexpr MsrRange kAdded[] = {
    {0x200, 0x20f},                                            // MTRRs: variable ranges,
    {0x250, 0x250},                                            // fixed ranges,
    {0x258, 0x259},           {0x268, 0x26f}, {0x2ff, 0x2ff},  // and the default.
    {0x277, 0x277},                                            // IA32_PAT
    {0xda0, 0xda0},                                            // IA32_XSS
    {0x400, 0x47f},            // Machine check banks, four registers each.
    {0x4b564d00, 0x4b564d08},  // KVM's own: kvm-clock, steal time, end of interrupt, ...
};

bool IsLeftOut(uint32_t index) {
  return std::any_of(std::begin(kLeftOut), std::end(kLeftOut), [index](const MsrRange& range) {
    return index >= range.first && index <= range.last;
  });
}

}  // namespace

std::vector<uint32_t> MsrsToSave(const std::vector<uint32_t>& kernel_list) {
  std::vector<uint32_t> result;
  for (const uint32_t index : kernel_list) {
    if (!IsLeftOut(index)) result.push_back(index);
  }
  for (const MsrRange& range : kAdded) {
    for (uint32_t index = range.first; index <= range.last; ++index) result.push_back(index);
  }
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

absl::Status CheckMsrs(std::span<const kvm_msr_entry> saved) {
  for (const kvm_msr_entry& msr : saved) {
    if (IsLeftOut(msr.index)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a saved vCPU has MSR 0x%x, which no guest of ours has", msr.index));
    }
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm::x86_64
