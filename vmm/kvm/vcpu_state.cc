// SPDX-License-Identifier: Apache-2.0
// Reading and writing a vCPU's state. The order is part of it: several of these calls change what
// others set (linux/Documentation/virt/kvm/api.rst; arch/x86/kvm/{x86,lapic}.c).
#include "vmm/kvm/vcpu_state.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_format.h"
#include "vmm/kvm/vcpu.h"

namespace hearth::vmm {
namespace {

// KVM_GET_MSRS and KVM_SET_MSRS.
struct MsrBatch {
  kvm_msrs header{};
  std::array<kvm_msr_entry, kMaxMsrsPerCall> entries;
};
static_assert(offsetof(MsrBatch, entries) == sizeof(kvm_msrs));

}  // namespace

std::optional<uint64_t> VcpuState::Msr(uint32_t index) const {
  for (const kvm_msr_entry& msr : msrs) {
    if (msr.index == index) return msr.data;
  }
  return std::nullopt;
}

absl::StatusOr<uint64_t> Vcpu::GetMsr(uint32_t index) const {
  MsrBatch batch;
  batch.header.nmsrs = 1;
  batch.entries[0] = {index, 0, 0};
  if (ioctl(fd_.get(), KVM_GET_MSRS, &batch) != 1) {
    return absl::NotFoundError(absl::StrFormat("the guest has no MSR 0x%x", index));
  }
  return uint64_t{batch.entries[0].data};
}

absl::Status Vcpu::SetMsr(uint32_t index, uint64_t value) {
  const kvm_msr_entry entry{index, 0, value};
  return SetMsrs({&entry, 1});
}

absl::Status Vcpu::SetMsrs(std::span<const kvm_msr_entry> msrs) {
  MsrBatch batch;
  while (!msrs.empty()) {
    const size_t count = std::min(msrs.size(), kMaxMsrsPerCall);
    batch.header.nmsrs = static_cast<uint32_t>(count);
    std::copy_n(msrs.begin(), count, batch.entries.begin());
    const int done = ioctl(fd_.get(), KVM_SET_MSRS, &batch);
    if (done < 0) return ErrnoStatus("KVM_SET_MSRS");
    msrs = msrs.subspan(static_cast<size_t>(done));
    if (static_cast<size_t>(done) == count) continue;
    // It stops at the first that it refuses. One that has its value already need not be written:
    // so it is with those that only the kernel may change.
    const kvm_msr_entry& refused = msrs.front();
    const auto present = GetMsr(refused.index);
    if (!present.ok() || *present != refused.data) {
      return absl::FailedPreconditionError(
          absl::StrFormat("KVM refuses the value 0x%x of MSR 0x%x", refused.data, refused.index));
    }
    msrs = msrs.subspan(1);
  }
  return absl::OkStatus();
}

absl::StatusOr<VcpuState> Vcpu::GetState(std::span<const uint32_t> msr_indices,
                                         size_t xsave_bytes) const {
  VcpuState state;
  const int fd = fd_.get();
  // First, for it changes what the local APIC has pending.
  if (ioctl(fd, KVM_GET_MP_STATE, &state.mp_state) != 0) return ErrnoStatus("KVM_GET_MP_STATE");
  if (ioctl(fd, KVM_GET_REGS, &state.regs) != 0) return ErrnoStatus("KVM_GET_REGS");
  if (ioctl(fd, KVM_GET_SREGS, &state.sregs) != 0) return ErrnoStatus("KVM_GET_SREGS");
  state.xsave.resize(std::max(xsave_bytes, sizeof(kvm_xsave)));
  const unsigned long get_xsave = xsave_bytes > sizeof(kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
  if (ioctl(fd, get_xsave, state.xsave.data()) != 0) return ErrnoStatus("KVM_GET_XSAVE");
  if (ioctl(fd, KVM_GET_XCRS, &state.xcrs) != 0) return ErrnoStatus("KVM_GET_XCRS");
  if (ioctl(fd, KVM_GET_DEBUGREGS, &state.debug_regs) != 0) return ErrnoStatus("KVM_GET_DEBUGREGS");
  if (ioctl(fd, KVM_GET_LAPIC, &state.lapic) != 0) return ErrnoStatus("KVM_GET_LAPIC");
  MsrBatch batch;
  while (!msr_indices.empty()) {
    const size_t count = std::min(msr_indices.size(), kMaxMsrsPerCall);
    batch.header.nmsrs = static_cast<uint32_t>(count);
    for (size_t i = 0; i < count; ++i) batch.entries[i] = {msr_indices[i], 0, 0};
    const int done = ioctl(fd, KVM_GET_MSRS, &batch);
    if (done < 0) return ErrnoStatus("KVM_GET_MSRS");
    state.msrs.insert(state.msrs.end(), batch.entries.begin(), batch.entries.begin() + done);
    // It stops at the first that it cannot read, which this guest then does not have.
    const size_t passed = std::min(count, static_cast<size_t>(done) + 1);
    msr_indices = msr_indices.subspan(passed);
  }
  if (ioctl(fd, KVM_GET_VCPU_EVENTS, &state.events) != 0) {
    return ErrnoStatus("KVM_GET_VCPU_EVENTS");
  }
  return state;
}

absl::Status Vcpu::SetState(const VcpuState& state, size_t xsave_bytes, bool skip_tsc) {
  const int fd = fd_.get();
  if (ioctl(fd, KVM_SET_MP_STATE, &state.mp_state) != 0) return ErrnoStatus("KVM_SET_MP_STATE");
  // Clears pending exceptions, so before the events.
  if (ioctl(fd, KVM_SET_REGS, &state.regs) != 0) return ErrnoStatus("KVM_SET_REGS");
  // Carries the APIC's base, so before the local APIC.
  if (ioctl(fd, KVM_SET_SREGS, &state.sregs) != 0) return ErrnoStatus("KVM_SET_SREGS");
  if (state.xsave.size() > xsave_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the saved XSAVE area has ", state.xsave.size(),
                     " bytes, this host's KVM takes ", xsave_bytes));
  }
  if (state.xsave.size() == xsave_bytes) {
    if (ioctl(fd, KVM_SET_XSAVE, state.xsave.data()) != 0) return ErrnoStatus("KVM_SET_XSAVE");
  } else {
    std::vector<uint8_t> padded(state.xsave);
    padded.resize(xsave_bytes);
    if (ioctl(fd, KVM_SET_XSAVE, padded.data()) != 0) return ErrnoStatus("KVM_SET_XSAVE");
  }
  if (ioctl(fd, KVM_SET_XCRS, &state.xcrs) != 0) return ErrnoStatus("KVM_SET_XCRS");
  if (ioctl(fd, KVM_SET_DEBUGREGS, &state.debug_regs) != 0) return ErrnoStatus("KVM_SET_DEBUGREGS");
  // Before the MSRs, one of which arms its timer.
  if (ioctl(fd, KVM_SET_LAPIC, &state.lapic) != 0) return ErrnoStatus("KVM_SET_LAPIC");
  std::vector<kvm_msr_entry> msrs;
  msrs.reserve(state.msrs.size());
  for (const kvm_msr_entry& msr : state.msrs) {
    if (msr.index == kMsrTscDeadline || (skip_tsc && msr.index == kMsrTsc)) continue;
    msrs.push_back({msr.index, 0, msr.data});
  }
  RETURN_IF_ERROR(SetMsrs(msrs));
  if (ioctl(fd, KVM_SET_VCPU_EVENTS, &state.events) != 0) {
    return ErrnoStatus("KVM_SET_VCPU_EVENTS");
  }
  return absl::OkStatus();
}

absl::Status Vcpu::StartDeadlineTimer(const VcpuState& state) {
  const auto deadline = state.Msr(kMsrTscDeadline);
  return deadline.has_value() ? SetMsr(kMsrTscDeadline, *deadline) : absl::OkStatus();
}

absl::StatusOr<uint32_t> Vcpu::TscKhz() const {
  const int khz = ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  if (khz < 0) return ErrnoStatus("KVM_GET_TSC_KHZ");
  return static_cast<uint32_t>(khz);
}

absl::Status Vcpu::SetTscKhz(uint32_t khz) {
  if (ioctl(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) != 0) {
    return ErrnoStatus("KVM_SET_TSC_KHZ");
  }
  return absl::OkStatus();
}

std::optional<uint64_t> Vcpu::TscOffset() const {
  uint64_t offset = 0;
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<uint64_t>(&offset);
  if (ioctl(fd_.get(), KVM_GET_DEVICE_ATTR, &attribute) != 0) return std::nullopt;
  return offset;
}

absl::Status Vcpu::SetTscOffset(uint64_t offset) {
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<uint64_t>(&offset);
  if (ioctl(fd_.get(), KVM_SET_DEVICE_ATTR, &attribute) != 0) {
    return ErrnoStatus("KVM_SET_DEVICE_ATTR of the TSC offset");
  }
  return absl::OkStatus();
}

void Vcpu::NotifyPaused() {
  [[maybe_unused]] const int error = ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
}

}  // namespace hearth::vmm
