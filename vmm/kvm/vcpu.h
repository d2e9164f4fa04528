// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/kvm/kvm_headers.h"
#include "vmm/kvm/vcpu_state.h"

namespace hearth::vmm {

// One vCPU and its kvm_run area. Set up by one thread, then entered by its own thread only. While
// that thread is outside Run() another one may read and write the state; SetImmediateExit may be
// called at any time.
class Vcpu {
 public:
  Vcpu(Vcpu&& other) noexcept;
  Vcpu& operator=(Vcpu&&) = delete;
  ~Vcpu();

  // Refused by KVM once the vCPU has run.
  absl::Status SetCpuid(const std::vector<kvm_cpuid_entry2>& entries);
  absl::Status SetRegs(const kvm_regs& regs);
  absl::StatusOr<kvm_regs> GetRegs() const;
  absl::Status SetSregs(const kvm_sregs& sregs);
  absl::StatusOr<kvm_sregs> GetSregs() const;
  absl::Status SetMsr(uint32_t index, uint64_t value);
  absl::StatusOr<uint64_t> GetMsr(uint32_t index) const;

  // Everything but CPUID, which the owner knows. The port or MMIO access of the last exit must be
  // committed. Of `msr_indices` those that this guest does not have are left out.
  absl::StatusOr<VcpuState> GetState(std::span<const uint32_t> msr_indices,
                                     size_t xsave_bytes) const;
  // Into a vCPU that has its CPUID and has never run; everything but the TSC deadline timer (see
  // StartDeadlineTimer). `skip_tsc`: the TSC is set by SetTscOffset(). `xsave_bytes` is what KVM
  // will read.
  absl::Status SetState(const VcpuState& state, size_t xsave_bytes, bool skip_tsc);
  // Last, when the TSC and the local APIC are right: before that KVM drops the write or arms a
  // wrong time. Nothing when the state holds no deadline.
  absl::Status StartDeadlineTimer(const VcpuState& state);

  absl::StatusOr<uint32_t> TscKhz() const;
  absl::Status SetTscKhz(uint32_t khz);
  // What is added to the host's (scaled) TSC. Nothing where KVM does not tell (before Linux 5.16).
  std::optional<uint64_t> TscOffset() const;
  absl::Status SetTscOffset(uint64_t offset);
  // Tells the guest's watchdog that it was stopped; does nothing for a guest without kvm-clock. To
  // be called before it goes on after a pause or a restore.
  void NotifyPaused();

  enum class RunResult {
    kExit,         // run().exit_reason says why.
    kInterrupted,  // By a signal or immediate_exit. A port or MMIO access before is committed.
  };
  // Enters the guest. An error is a failure of KVM itself.
  absl::StatusOr<RunResult> Run();

  // With true the next Run() returns kInterrupted at once, after it has committed the port or MMIO
  // access of the exit before (KVM requires that re-entry before registers are read).
  void SetImmediateExit(bool value) {
    __atomic_store_n(&run_->immediate_exit, value ? 1 : 0, __ATOMIC_SEQ_CST);
  }

  // Shared with the kernel; stable while the vCPU is outside Run().
  kvm_run& run() { return *run_; }
  // The whole shared area: data of a port access lies at run().io.data_offset in it.
  std::span<uint8_t> run_area() { return {reinterpret_cast<uint8_t*>(run_), run_bytes_}; }

 private:
  friend class Vm;
  Vcpu(UniqueFd fd, kvm_run* run, size_t run_bytes)
      : fd_(std::move(fd)), run_(run), run_bytes_(run_bytes) {}

  absl::Status SetMsrs(std::span<const kvm_msr_entry> msrs);

  UniqueFd fd_;
  kvm_run* run_;
  size_t run_bytes_;
};

}  // namespace hearth::vmm
