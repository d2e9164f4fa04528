// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/vcpu_set.h"

#include <optional>

#include "vmm/snapshot/limits.h"

namespace hearth::vmm {
namespace {

// The local APIC's LVT timer register and its mode bits (Intel SDM 3A, 11.5.1).
constexpr size_t kLapicLvtTimer = 0x320;
constexpr size_t kLapicTimerModeByte = 2;  // Bits 18-17.
constexpr uint8_t kLapicTimerModeMask = 0x06;
constexpr uint8_t kLapicTscDeadlineMode = 0x04;

bool UsesTscDeadline(const kvm_lapic_state& lapic) {
  const auto byte = static_cast<uint8_t>(lapic.regs[kLapicLvtTimer + kLapicTimerModeByte]);
  return (byte & kLapicTimerModeMask) == kLapicTscDeadlineMode;
}

void SetMsrValue(VcpuState& state, uint32_t index, uint64_t value) {
  for (kvm_msr_entry& msr : state.msrs) {
    if (msr.index == index) msr.data = value;
  }
}

bool WithinTolerance(uint32_t khz, uint32_t reference_khz) {
  const uint64_t difference = khz > reference_khz ? khz - reference_khz : reference_khz - khz;
  return difference * 1'000'000 <= uint64_t{reference_khz} * kTscTolerancePpm;
}

absl::Status SetTscFrequency(Vcpu& vcpu, uint32_t saved_khz, uint32_t host_khz) {
  if (WithinTolerance(saved_khz, host_khz)) return absl::OkStatus();
  const absl::Status status = vcpu.SetTscKhz(saved_khz);
  if (status.ok()) return status;
  return absl::FailedPreconditionError(
      absl::StrCat("the saved machine's TSC runs at ", saved_khz, " kHz, this host's at ", host_khz,
                   " kHz, and its KVM cannot scale it: ", status.message()));
}

}  // namespace

absl::StatusOr<std::vector<SavedVcpuState>> SaveVcpus(std::span<Vcpu* const> vcpus,
                                                      std::span<const uint32_t> msr_indices,
                                                      size_t xsave_bytes) {
  std::vector<SavedVcpuState> saved(vcpus.size());
  std::optional<uint64_t> first_offset, first_tsc;
  for (size_t i = 0; i < vcpus.size(); ++i) {
    ASSIGN_OR_RETURN(saved[i].vcpu, vcpus[i]->GetState(msr_indices, xsave_bytes));
    ASSIGN_OR_RETURN(saved[i].tsc_khz, vcpus[i]->TscKhz());
    VcpuState& state = saved[i].vcpu;
    const auto tsc = state.Msr(kMsrTsc);
    if (!tsc.has_value()) return absl::InternalError("KVM did not tell a vCPU's TSC");
    // They were read one after the other; their offsets tell how far apart they really are.
    const auto offset = vcpus[i]->TscOffset();
    if (i == 0) {
      first_offset = offset;
      first_tsc = tsc;
    } else if (offset.has_value() && first_offset.has_value()) {
      SetMsrValue(state, kMsrTsc, *first_tsc + (*offset - *first_offset));
    }
    // 0 is "no deadline", also when the timer's interrupt went astray between its expiry and our
    // look at it, and then nothing would ever arm it again. One tick too many harms nobody.
    if (UsesTscDeadline(state.lapic) && state.Msr(kMsrTscDeadline) == uint64_t{0}) {
      SetMsrValue(state, kMsrTscDeadline, *state.Msr(kMsrTsc));
    }
  }
  return saved;
}

absl::Status RestoreVcpus(std::span<Vcpu> vcpus, std::span<const SavedVcpuState> saved,
                          size_t xsave_bytes) {
  ASSIGN_OR_RETURN(const uint32_t host_khz, vcpus[0].TscKhz());
  // Writing the MSR would not do: KVM takes a value within a second of what the fresh vCPU's TSC is
  // for an attempt to synchronise it, and keeps the fresh one. A guest that was saved in its first
  // second would find its TSC set back.
  const bool by_offset = vcpus[0].TscOffset().has_value();
  for (size_t i = 0; i < vcpus.size(); ++i) {
    RETURN_IF_ERROR(vcpus[i].SetCpuid(saved[i].cpuid));
    RETURN_IF_ERROR(SetTscFrequency(vcpus[i], saved[i].tsc_khz, host_khz));
    RETURN_IF_ERROR(vcpus[i].SetState(saved[i].vcpu, xsave_bytes, by_offset));
  }
  if (!by_offset) return absl::OkStatus();
  // Offsets count in guest cycles, so what vCPU 0's shows now tells which one it is to have.
  ASSIGN_OR_RETURN(const uint64_t now, vcpus[0].GetMsr(kMsrTsc));
  const uint64_t base = *vcpus[0].TscOffset() - now;
  for (size_t i = 0; i < vcpus.size(); ++i) {
    const auto tsc = saved[i].vcpu.Msr(kMsrTsc);
    if (!tsc.has_value()) return absl::InvalidArgumentError("a saved vCPU has no TSC");
    RETURN_IF_ERROR(vcpus[i].SetTscOffset(base + *tsc));
  }
  return absl::OkStatus();
}

absl::Status StartDeadlineTimers(std::span<Vcpu> vcpus, std::span<const SavedVcpuState> saved) {
  for (size_t i = 0; i < vcpus.size(); ++i) {
    RETURN_IF_ERROR(vcpus[i].StartDeadlineTimer(saved[i].vcpu));
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm
