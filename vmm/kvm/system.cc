// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/system.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <ctime>
#include <memory>

namespace hearth::vmm {
namespace {

constexpr int kCreateVmTries = 8;
constexpr long kFirstPauseNs = 10'000;  // Doubled each time: 2.5 ms in all.
// KVM answers with about 40 entries today; its own limit is 256 (KVM_MAX_CPUID_ENTRIES).
constexpr size_t kMaxCpuidEntries = 256;
// It answers with about 200 indices today.
constexpr size_t kMaxMsrIndices = 4096;

// Without these no machine of ours works; each is older than any kernel we support.
constexpr struct {
  int capability;
  const char* name;
} kRequired[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

}  // namespace

absl::StatusOr<System> System::Create(UniqueFd kvm) {
  const int version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return absl::FailedPreconditionError(
        version < 0 ? absl::StrCat("the descriptor given as /dev/kvm is no KVM device: ",
                                   ErrnoStatus("KVM_GET_API_VERSION").message())
                    : absl::StrCat("KVM speaks API version ", version, ", not 12"));
  }
  for (const auto& required : kRequired) {
    if (ioctl(kvm.get(), KVM_CHECK_EXTENSION, required.capability) <= 0) {
      return absl::FailedPreconditionError(absl::StrCat("this host's KVM lacks ", required.name));
    }
  }
  const int run_bytes = ioctl(kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) return ErrnoStatus("KVM_GET_VCPU_MMAP_SIZE");
  return System(std::move(kvm), static_cast<size_t>(run_bytes));
}

bool System::HasExtension(int capability) const {
  return ioctl(kvm_.get(), KVM_CHECK_EXTENSION, capability) > 0;
}

absl::StatusOr<Vm> System::CreateVm() const {
  for (int attempt = 1;; ++attempt) {
    const int fd = ioctl(kvm_.get(), KVM_CREATE_VM, 0);
    if (fd >= 0) return Vm(UniqueFd(fd), run_bytes_);
    if (errno != EINTR || attempt == kCreateVmTries) return ErrnoStatus("KVM_CREATE_VM");
    // Some kernels say so of a fork of theirs that did not get through; at once again it may not
    // either.
    const timespec pause{.tv_sec = 0, .tv_nsec = kFirstPauseNs << attempt};
    nanosleep(&pause, nullptr);
  }
}

absl::StatusOr<std::vector<kvm_cpuid_entry2>> System::SupportedCpuid() const {
  // A kvm_cpuid2 and room for its entries behind it.
  const size_t bytes = sizeof(kvm_cpuid2) + kMaxCpuidEntries * sizeof(kvm_cpuid_entry2);
  const std::unique_ptr<uint64_t[]> buffer(new uint64_t[(bytes + 7) / 8]());
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(buffer.get());
  cpuid->nent = kMaxCpuidEntries;
  if (ioctl(kvm_.get(), KVM_GET_SUPPORTED_CPUID, cpuid) != 0) {
    return ErrnoStatus("KVM_GET_SUPPORTED_CPUID");
  }
  return std::vector<kvm_cpuid_entry2>(cpuid->entries, cpuid->entries + cpuid->nent);
}

absl::StatusOr<std::vector<uint32_t>> System::MsrIndexList() const {
  std::vector<uint32_t> buffer(1 + kMaxMsrIndices);
  auto* list = reinterpret_cast<kvm_msr_list*>(buffer.data());
  list->nmsrs = kMaxMsrIndices;
  if (ioctl(kvm_.get(), KVM_GET_MSR_INDEX_LIST, list) != 0) {
    return ErrnoStatus("KVM_GET_MSR_INDEX_LIST");
  }
  const uint32_t count = list->nmsrs;
  return std::vector<uint32_t>(buffer.begin() + 1, buffer.begin() + 1 + count);
}

}  // namespace hearth::vmm
