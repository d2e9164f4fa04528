// SPDX-License-Identifier: Apache-2.0
// Saving a machine and building it again.
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/arch/x86_64/msrs.h"
#include "vmm/machine/machine.h"
#include "vmm/snapshot/vcpu_set.h"

namespace hearth::vmm {
namespace {

absl::Status WriteStateFile(const std::string& bytes, int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the state file");
  if (!S_ISREG(info.st_mode) || info.st_size != 0) {
    return absl::InvalidArgumentError("the state file must be an empty file");
  }
  const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), 0);
  if (written < 0) return ErrnoStatus("writing the state file");
  if (static_cast<size_t>(written) != bytes.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the state file took ", written, " bytes of ", bytes.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SavedSizes> Machine::Save(int state_fd, int memory_fd) {
  RETURN_IF_ERROR(Move(MachineEvent::kSave));
  std::vector<Vcpu*> vcpus;
  for (const auto& thread : vcpu_threads_) {
    if (!thread->AwaitPause()) {
      return absl::FailedPreconditionError("a vCPU has ended: there is nothing to go on from");
    }
    vcpus.push_back(&thread->vcpu());
  }
  // Devices first: what they finish now interrupts vCPUs whose state is then read.
  devices_->Quiesce();
  SavedMachineState saved;
  {
    MutexLock lock(&device_lock_);
    ASSIGN_OR_RETURN(saved.devices, devices_->Save());
  }
  ASSIGN_OR_RETURN(const auto kernel_msrs, options_.system->MsrIndexList());
  ASSIGN_OR_RETURN(saved.vcpus,
                   SaveVcpus(vcpus, x86_64::MsrsToSave(kernel_msrs), vm_.XsaveBytes()));
  for (size_t i = 0; i < vcpus.size(); ++i) saved.vcpus[i].cpuid = cpuids_[i];
  ASSIGN_OR_RETURN(saved.vm, vm_.GetState());
  saved.memory_mib = static_cast<uint32_t>(memory_.size_bytes() >> 20);

  SavedSizes sizes;
  ASSIGN_OR_RETURN(sizes.memory, WriteMemoryFile(memory_, memory_fd));
  saved.holes = std::move(sizes.memory.holes);
  const std::string bytes = SerializeMachineState(saved);
  sizes.state_bytes = bytes.size();
  RETURN_IF_ERROR(WriteStateFile(bytes, state_fd));
  return sizes;
}

absl::StatusOr<std::unique_ptr<Machine>> Machine::Restore(RestoreConfig config, Options options) {
  const System& system = *options.system;
  const SavedMachineState& saved = config.state;
  const auto vcpu_count = static_cast<uint32_t>(saved.vcpus.size());
  ASSIGN_OR_RETURN(Cpuid offered, system.SupportedCpuid());
  x86_64::AdaptCpuid(offered, system.HasExtension(KVM_CAP_TSC_DEADLINE_TIMER), vcpu_count);
  for (uint32_t id = 0; id < vcpu_count; ++id) {
    RETURN_IF_ERROR(x86_64::CheckCpuidFits(saved.vcpus[id].cpuid, offered));
    RETURN_IF_ERROR(x86_64::CheckCpuidAdapted(saved.vcpus[id].cpuid, id, vcpu_count));
    RETURN_IF_ERROR(x86_64::CheckMsrs(saved.vcpus[id].vcpu.msrs));
  }
  if (config.pager.has_value()) return RestorePaged(config, std::move(options));
  if (config.state.holes.empty()) {
    ASSIGN_OR_RETURN(config.state.holes, FindHoles(config.memory.get()));
  }
  ASSIGN_OR_RETURN(GuestMemory memory,
                   MapMemoryFile(config.memory.get(),
                                 x86_64::RamRanges(uint64_t{saved.memory_mib} << 20), saved.holes));
  return RestoreInto(std::move(memory), nullptr, config, std::move(options));
}

absl::StatusOr<std::unique_ptr<Machine>> Machine::RestorePaged(RestoreConfig& config,
                                                               Options options) {
  ASSIGN_OR_RETURN(PagedMemory::Created paged,
                   PagedMemory::Create(x86_64::RamRanges(uint64_t{config.state.memory_mib} << 20),
                                       *std::move(config.pager), options.enter_pager_watch_jail));
  auto machine = RestoreInto(std::move(paged.memory), paged.watch, config, std::move(options));
  if (machine.ok()) {
    (*machine)->WatchPager();
  } else if (paged.watch->lost()) {
    return absl::UnavailableError(absl::StrCat("the pager went while the machine was restored: ",
                                               machine.status().message()));
  }
  return machine;
}

void Machine::WatchPager() {
  paged_->OnLost([this, alive = alive_, loop = options_.loop] {
    loop->Post([this, alive] {
      if (!*alive || state_ == MachineState::kExited) return;
      End({ExitReason::kHostError, "the pager that served the machine's memory has gone"});
    });
  });
}

absl::StatusOr<std::unique_ptr<Machine>> Machine::RestoreInto(GuestMemory memory,
                                                              std::shared_ptr<PagedMemory> paged,
                                                              RestoreConfig& config,
                                                              Options options) {
  const SavedMachineState& saved = config.state;
  ASSIGN_OR_RETURN(auto machine, Build(config.machine, std::move(memory), std::move(options)));
  machine->paged_ = std::move(paged);
  if (machine->paged_ == nullptr) {
    RETURN_IF_ERROR(
        OwnDenseBlocks(machine->memory_, config.memory.get(), config.working_set, saved.holes));
  }
  PopulateWorkingSet(machine->memory_, config.working_set);
  ASSIGN_OR_RETURN(std::vector<Vcpu> vcpus,
                   machine->MakeVcpus(static_cast<uint32_t>(saved.vcpus.size())));
  RETURN_IF_ERROR(machine->RestoreState(saved, vcpus));
  RETURN_IF_ERROR(machine->StartThreads(std::move(vcpus)));
  RETURN_IF_ERROR(machine->Move(MachineEvent::kRestore));
  machine->restored_ = true;
  return machine;
}

absl::Status Machine::RestoreState(const SavedMachineState& saved, std::vector<Vcpu>& vcpus) {
  RETURN_IF_ERROR(RestoreVcpus(vcpus, saved.vcpus, vm_.XsaveBytes()));
  RETURN_IF_ERROR(vm_.SetState(saved.vm));
  RETURN_IF_ERROR(StartDeadlineTimers(vcpus, saved.vcpus));
  for (const SavedVcpuState& vcpu : saved.vcpus) cpuids_.push_back(vcpu.cpuid);
  // Last: it raises interrupts.
  MutexLock lock(&device_lock_);
  return devices_->Restore(saved.devices);
}

absl::StatusOr<std::vector<PageRun>> Machine::WorkingSet(int pagemap_fd, size_t max_runs) const {
  if (!restored_) {
    return absl::FailedPreconditionError("only a restored machine has a working set");
  }
  if (state_ == MachineState::kExited) {
    return absl::FailedPreconditionError("the machine has ended");
  }
  return ReadWorkingSet(memory_, pagemap_fd, max_runs);
}

}  // namespace hearth::vmm
