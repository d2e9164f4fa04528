// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vm.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace hearth::vmm {
namespace {

static_assert(sizeof(kvm_irqchip) == 520);

template <typename T>
absl::Status GetChip(int vm, uint32_t id, T& to) {
  static_assert(sizeof(T) <= sizeof(kvm_irqchip::chip));
  kvm_irqchip chip{};
  chip.chip_id = id;
  if (ioctl(vm, KVM_GET_IRQCHIP, &chip) != 0) {
    return ErrnoStatus(absl::StrCat("KVM_GET_IRQCHIP ", id));
  }
  std::memcpy(&to, &chip.chip, sizeof(T));
  return absl::OkStatus();
}

template <typename T>
absl::Status SetChip(int vm, uint32_t id, const T& from) {
  kvm_irqchip chip{};
  chip.chip_id = id;
  std::memcpy(&chip.chip, &from, sizeof(T));
  if (ioctl(vm, KVM_SET_IRQCHIP, &chip) != 0) {
    return ErrnoStatus(absl::StrCat("KVM_SET_IRQCHIP ", id));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Vm::SetTssAddress(uint32_t address) {
  if (ioctl(fd_.get(), KVM_SET_TSS_ADDR, static_cast<unsigned long>(address)) != 0) {
    return ErrnoStatus("KVM_SET_TSS_ADDR");
  }
  return absl::OkStatus();
}

absl::Status Vm::SetMemoryRegion(uint32_t slot, uint64_t guest_address, void* host,
                                 uint64_t size_bytes) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = guest_address;
  region.memory_size = size_bytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(host);
  if (ioctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
    return ErrnoStatus(absl::StrCat("KVM_SET_USER_MEMORY_REGION slot ", slot, " of ", size_bytes,
                                    " bytes at guest address ", guest_address));
  }
  return absl::OkStatus();
}

absl::Status Vm::CreateInterruptController() {
  if (ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0) != 0) return ErrnoStatus("KVM_CREATE_IRQCHIP");
  return absl::OkStatus();
}

absl::StatusOr<Vcpu> Vm::CreateVcpu(uint32_t id) {
  UniqueFd vcpu(ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
  if (!vcpu) return ErrnoStatus("KVM_CREATE_VCPU");
  void* run = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.get(), 0);
  if (run == MAP_FAILED) return ErrnoStatus("mmap of a vCPU's kvm_run");
  return Vcpu(std::move(vcpu), static_cast<kvm_run*>(run), run_bytes_);
}

absl::Status Vm::AddIrqfd(int eventfd, uint32_t gsi) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(eventfd);
  irqfd.gsi = gsi;
  if (ioctl(fd_.get(), KVM_IRQFD, &irqfd) != 0) {
    return ErrnoStatus(absl::StrCat("KVM_IRQFD for GSI ", gsi));
  }
  return absl::OkStatus();
}

absl::Status Vm::AddMmioEventfd(int eventfd, uint64_t address, uint32_t value) {
  kvm_ioeventfd request{};
  request.datamatch = value;
  request.addr = address;
  request.len = 4;
  request.fd = eventfd;
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  if (ioctl(fd_.get(), KVM_IOEVENTFD, &request) != 0) return ErrnoStatus("KVM_IOEVENTFD");
  return absl::OkStatus();
}

absl::StatusOr<VmState> Vm::GetState() const {
  VmState state;
  kvm_clock_data clock{};
  if (ioctl(fd_.get(), KVM_GET_CLOCK, &clock) != 0) return ErrnoStatus("KVM_GET_CLOCK");
  state.clock_ns = clock.clock;
  RETURN_IF_ERROR(GetChip(fd_.get(), KVM_IRQCHIP_PIC_MASTER, state.pic_master));
  RETURN_IF_ERROR(GetChip(fd_.get(), KVM_IRQCHIP_PIC_SLAVE, state.pic_slave));
  RETURN_IF_ERROR(GetChip(fd_.get(), KVM_IRQCHIP_IOAPIC, state.ioapic));
  return state;
}

absl::Status Vm::SetState(const VmState& state) {
  kvm_clock_data clock{};
  clock.clock = state.clock_ns;
  if (ioctl(fd_.get(), KVM_SET_CLOCK, &clock) != 0) return ErrnoStatus("KVM_SET_CLOCK");
  RETURN_IF_ERROR(SetChip(fd_.get(), KVM_IRQCHIP_PIC_MASTER, state.pic_master));
  RETURN_IF_ERROR(SetChip(fd_.get(), KVM_IRQCHIP_PIC_SLAVE, state.pic_slave));
  return SetChip(fd_.get(), KVM_IRQCHIP_IOAPIC, state.ioapic);
}

size_t Vm::XsaveBytes() const {
  const int bytes = ioctl(fd_.get(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  return std::max(sizeof(kvm_xsave), static_cast<size_t>(std::max(bytes, 0)));
}

}  // namespace hearth::vmm
