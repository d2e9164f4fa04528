// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"
#include "vmm/arch/x86_64/cpu.h"

namespace hearth::vmm::x86_64 {
namespace {

constexpr uint32_t Bit(int n) { return uint32_t{1} << n; }

using Register = __u32 kvm_cpuid_entry2::*;
constexpr Register kEax = &kvm_cpuid_entry2::eax;
constexpr Register kEbx = &kvm_cpuid_entry2::ebx;
constexpr Register kEcx = &kvm_cpuid_entry2::ecx;
constexpr Register kEdx = &kvm_cpuid_entry2::edx;

// The registers in which a set bit is something that a guest may use (Intel SDM 2A, CPUID; AMD APM
// 3, appendix E). `ignored`: KVM itself sets them by what the guest does or by the topology.
struct FeatureWord {
  uint32_t function;
  uint32_t index;
  Register word;
  const char* name;
  uint32_t ignored = 0;
};
constexpr FeatureWord kFeatureWords[] = {
    {0x1, 0, kEcx, "ECX", Bit(27)},  // OSXSAVE follows CR4.
    {0x1, 0, kEdx, "EDX", Bit(28)},  // HTT.
    {0x7, 0, kEbx, "EBX"},
    {0x7, 0, kEcx, "ECX", Bit(4)},  // OSPKE follows CR4.
    {0x7, 0, kEdx, "EDX"},
    {0x7, 1, kEax, "EAX"},
    {0x7, 1, kEdx, "EDX"},
    {0x7, 2, kEdx, "EDX"},
    {0xd, 0, kEax, "EAX"},  // What XCR0 may hold.
    {0xd, 0, kEdx, "EDX"},
    {0xd, 1, kEax, "EAX"},
    {0xd, 1, kEcx, "ECX"},                 // What IA32_XSS may hold.
    {0x40000001, 0, kEax, "EAX"},          // KVM's paravirtual features.
    {0x80000001, 0, kEcx, "ECX", Bit(1)},  // CmpLegacy.
    {0x80000001, 0, kEdx, "EDX"},
    {0x80000007, 0, kEdx, "EDX"},  // Invariant TSC.
    {0x80000008, 0, kEbx, "EBX"},
    {0x80000021, 0, kEax, "EAX"},
};

// As KVM looks for it: an entry without the flag is that of every index of its function.
const kvm_cpuid_entry2* Find(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                             uint32_t index) {
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function != function) continue;
    if ((entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || entry.index == index) return &entry;
  }
  return nullptr;
}

bool SameRegisters(const kvm_cpuid_entry2& a, const kvm_cpuid_entry2& b) {
  return a.function == b.function && a.eax == b.eax && a.ebx == b.ebx && a.ecx == b.ecx &&
         a.edx == b.edx;
}

// Whether the entries are such that all of KVM's ways to look for one come to the same: a function
// begins with its index 0, and has more than one entry only if all say that their index matters.
absl::Status CheckUnambiguous(const std::vector<kvm_cpuid_entry2>& entries) {
  for (const kvm_cpuid_entry2& entry : entries) {
    const auto first = std::find_if(
        entries.begin(), entries.end(),
        [&](const kvm_cpuid_entry2& other) { return other.function == entry.function; });
    const bool indexed = (first->flags & entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
    if (first->index != 0 || (&*first != &entry && (!indexed || entry.index == 0))) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "the saved CPUID's entries of leaf 0x%x contradict each other", entry.function));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCpuidFits(const std::vector<kvm_cpuid_entry2>& saved,
                            const std::vector<kvm_cpuid_entry2>& offered) {
  const kvm_cpuid_entry2* saved_vendor = Find(saved, 0, 0);
  const kvm_cpuid_entry2* vendor = Find(offered, 0, 0);
  if (saved_vendor == nullptr || vendor == nullptr || saved_vendor->ebx != vendor->ebx ||
      saved_vendor->ecx != vendor->ecx || saved_vendor->edx != vendor->edx) {
    return absl::FailedPreconditionError(
        "the machine was saved on another vendor's processor (CPUID leaf 0)");
  }
  for (const FeatureWord& feature : kFeatureWords) {
    const kvm_cpuid_entry2* entry = Find(saved, feature.function, feature.index);
    if (entry == nullptr) continue;
    const kvm_cpuid_entry2* here = Find(offered, feature.function, feature.index);
    const uint32_t has = here == nullptr ? 0 : here->*feature.word;
    const uint32_t missing = entry->*feature.word & ~has & ~feature.ignored;
    if (missing != 0) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "this host lacks processor features that the saved machine was shown: CPUID leaf 0x%x.%d "
          "%s, bits 0x%08x",
          feature.function, feature.index, feature.name, missing));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCpuidAdapted(const std::vector<kvm_cpuid_entry2>& saved, uint32_t id,
                               uint32_t vcpu_count) {
  RETURN_IF_ERROR(CheckUnambiguous(saved));
  std::vector<kvm_cpuid_entry2> adapted = saved;
  // Whether the host has the deadline timer is for CheckCpuidFits() to judge.
  AdaptCpuid(adapted, /*tsc_deadline=*/false, vcpu_count);
  SetCpuidApicId(adapted, id);
  for (size_t i = 0; i < saved.size(); ++i) {
    if (i < adapted.size() && SameRegisters(adapted[i], saved[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("the saved CPUID leaf 0x%x.%d of vCPU %d is none that this VMM shows",
                        saved[i].function, saved[i].index, id));
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm::x86_64
