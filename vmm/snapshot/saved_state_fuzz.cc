// SPDX-License-Identifier: Apache-2.0
// Mutated states against all that is judged without KVM: the parser and the check of CPUID. The
// input is a state, or edits of a good one, without which few inputs would come past the lengths.
#include <cstddef>
#include <cstdint>
#include <string>

#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/msrs.h"
#include "vmm/snapshot/saved_state.h"

namespace {

std::string GoodState() {
  hearth::vmm::SavedMachineState state;
  state.memory_mib = 4;
  state.vcpus.resize(2);
  for (auto& vcpu : state.vcpus) {
    vcpu.tsc_khz = 1'000'000;
    vcpu.vcpu.xsave.resize(sizeof(kvm_xsave));
    vcpu.vcpu.msrs = {{hearth::vmm::kMsrTsc, 0, 1}, {hearth::vmm::kMsrTscDeadline, 0, 2}};
    for (const uint32_t function : {0u, 1u, 7u, 13u}) {
      kvm_cpuid_entry2 entry{};
      entry.function = function;
      vcpu.cpuid.push_back(entry);
    }
  }
  return SerializeMachineState(state);
}

// Three bytes an edit: where (from the front or, among the long runs of zeros, in steps) and what.
std::string Edited(const uint8_t* data, size_t size) {
  static const std::string good = GoodState();
  std::string state = good;
  for (; size >= 3; data += 3, size -= 3) {
    const size_t at = (size_t{data[0]} | size_t{data[1]} << 8) % state.size();
    state[at] = static_cast<char>(data[2]);
  }
  if (size == 2) state.resize((size_t{data[0]} | size_t{data[1]} << 8) % (state.size() + 1));
  return state;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes = (data[0] & 1) != 0
                                ? std::string(reinterpret_cast<const char*>(data + 1), size - 1)
                                : Edited(data + 1, size - 1);
  const auto state = hearth::vmm::ParseMachineState(bytes);
  if (!state.ok()) return 0;
  for (const auto& vcpu : state->vcpus) {
    hearth::vmm::x86_64::CheckCpuidFits(vcpu.cpuid, state->vcpus[0].cpuid).IgnoreError();
    hearth::vmm::x86_64::CheckCpuidAdapted(vcpu.cpuid, 0, 1).IgnoreError();
    hearth::vmm::x86_64::CheckMsrs(vcpu.vcpu.msrs).IgnoreError();
  }
  // What was accepted is written as something that is accepted again.
  if (!hearth::vmm::ParseMachineState(SerializeMachineState(*state)).ok()) __builtin_trap();
  return 0;
}
