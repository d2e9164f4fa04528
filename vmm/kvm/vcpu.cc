// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

namespace hearth::vmm {

Vcpu::Vcpu(Vcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      run_(std::exchange(other.run_, nullptr)),
      run_bytes_(other.run_bytes_) {}

Vcpu::~Vcpu() {
  if (run_ != nullptr) munmap(run_, run_bytes_);
}

absl::Status Vcpu::SetCpuid(const std::vector<kvm_cpuid_entry2>& entries) {
  const size_t bytes = sizeof(kvm_cpuid2) + entries.size() * sizeof(kvm_cpuid_entry2);
  const std::unique_ptr<uint64_t[]> buffer(new uint64_t[(bytes + 7) / 8]());
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.get());
  cpuid->nent = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), cpuid->entries);
  if (ioctl(fd_.get(), KVM_SET_CPUID2, cpuid) != 0) return ErrnoStatus("KVM_SET_CPUID2");
  return absl::OkStatus();
}

absl::Status Vcpu::SetRegs(const kvm_regs& regs) {
  if (ioctl(fd_.get(), KVM_SET_REGS, &regs) != 0) return ErrnoStatus("KVM_SET_REGS");
  return absl::OkStatus();
}

absl::StatusOr<kvm_regs> Vcpu::GetRegs() const {
  kvm_regs regs{};
  if (ioctl(fd_.get(), KVM_GET_REGS, &regs) != 0) return ErrnoStatus("KVM_GET_REGS");
  return regs;
}

absl::Status Vcpu::SetSregs(const kvm_sregs& sregs) {
  if (ioctl(fd_.get(), KVM_SET_SREGS, &sregs) != 0) return ErrnoStatus("KVM_SET_SREGS");
  return absl::OkStatus();
}

absl::StatusOr<kvm_sregs> Vcpu::GetSregs() const {
  kvm_sregs sregs{};
  if (ioctl(fd_.get(), KVM_GET_SREGS, &sregs) != 0) return ErrnoStatus("KVM_GET_SREGS");
  return sregs;
}

absl::StatusOr<Vcpu::RunResult> Vcpu::Run() {
  if (ioctl(fd_.get(), KVM_RUN, 0) == 0) return RunResult::kExit;
  // EAGAIN: a vCPU that waited for its start-up message was woken without it.
  if (errno == EINTR || errno == EAGAIN) return RunResult::kInterrupted;
  return ErrnoStatus("KVM_RUN");
}

}  // namespace hearth::vmm
