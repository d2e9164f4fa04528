// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/kvm/kvm_headers.h"
#include "vmm/kvm/vcpu.h"

namespace hearth::vmm {

// What a VM has beside its vCPUs, as the kernel's ABI has it.
struct VmState {
  uint64_t clock_ns = 0;  // kvm-clock's reading.
  kvm_pic_state pic_master{};
  kvm_pic_state pic_slave{};
  kvm_ioapic_state ioapic{};
};

// One KVM virtual machine. The order of set-up decides what it costs and whether it works:
// SetTssAddress, SetMemoryRegion (a memslot added after the interrupt controller waits for a grace
// period of the kernel, milliseconds each), CreateInterruptController, then CreateVcpu and the
// rest. Used by the thread that sets the machine up.
class Vm {
 public:
  // KVM on Intel needs three pages of guest-physical space for its own use (KVM_SET_TSS_ADDR).
  absl::Status SetTssAddress(uint32_t address);
  // `host` stays mapped for as long as the VM exists. `slot` counts from 0.
  absl::Status SetMemoryRegion(uint32_t slot, uint64_t guest_address, void* host,
                               uint64_t size_bytes);
  // The in-kernel PIC, IOAPIC and LAPICs; GSI n is IOAPIC pin n (and PIC pin n below 16).
  absl::Status CreateInterruptController();
  absl::StatusOr<Vcpu> CreateVcpu(uint32_t id);

  // A write to `eventfd` raises an edge on `gsi`.
  absl::Status AddIrqfd(int eventfd, uint32_t gsi);
  // A guest's 4-byte write of `value` to `address` signals `eventfd` without leaving the kernel.
  absl::Status AddMmioEventfd(int eventfd, uint64_t address, uint32_t value);

  // While every vCPU is paused.
  absl::StatusOr<VmState> GetState() const;
  // After the vCPUs' state, before interrupts are raised. The clock goes on from where it stood,
  // whatever time has passed since (KVM_SET_CLOCK without KVM_CLOCK_REALTIME).
  absl::Status SetState(const VmState& state);
  // How much KVM reads and writes as a vCPU's XSAVE area; at least sizeof(kvm_xsave).
  size_t XsaveBytes() const;

  int fd() const { return fd_.get(); }

 private:
  friend class System;
  Vm(UniqueFd fd, size_t run_bytes) : fd_(std::move(fd)), run_bytes_(run_bytes) {}

  UniqueFd fd_;
  size_t run_bytes_;
};

}  // namespace hearth::vmm
