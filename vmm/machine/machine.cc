// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/machine.h"

#include <sys/mman.h>
#include <time.h>

#include "vmm/arch/x86_64/boot_data.h"
#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/arch/x86_64/layout.h"

namespace hearth::vmm {
namespace {

absl::StatusOr<GuestMemory> MakeMemory(uint32_t memory_mib) {
  ASSIGN_OR_RETURN(GuestMemory memory,
                   GuestMemory::CreateAnonymous(x86_64::RamRanges(uint64_t{memory_mib} << 20)));
  for (const auto& region : memory.regions()) {
    // Small pages: a guest pays for what it touches, not for 2 MiB around it. And a tenant's
    // memory has no place in our core dumps. Advice only: a kernel that knows neither is fine.
    madvise(region.mapping.data(), region.mapping.size_bytes(), MADV_NOHUGEPAGE);
    madvise(region.mapping.data(), region.mapping.size_bytes(), MADV_DONTDUMP);
  }
  return memory;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(MachineConfig config, Options options) {
  const System& system = *options.system;
  ASSIGN_OR_RETURN(GuestMemory memory, MakeMemory(config.memory_mib));
  if (!options.vm.has_value()) {
    ASSIGN_OR_RETURN(options.vm, system.CreateVm());
  }
  Vm vm = *std::exchange(options.vm, std::nullopt);
  // In the order that vm.h asks for.
  RETURN_IF_ERROR(vm.SetTssAddress(x86_64::kTssAddress));
  uint32_t slot = 0;
  for (const auto& region : memory.regions()) {
    RETURN_IF_ERROR(vm.SetMemoryRegion(slot++, region.start.value(), region.mapping.data(),
                                       region.mapping.size_bytes()));
  }
  RETURN_IF_ERROR(vm.CreateInterruptController());

  std::unique_ptr<Machine> machine(
      new Machine(std::move(vm), std::move(memory), std::move(options)));
  RETURN_IF_ERROR(machine->AddDevices(config));
  RETURN_IF_ERROR(machine->LoadGuest(config));
  RETURN_IF_ERROR(machine->AddVcpu(system));
  ASSIGN_OR_RETURN(machine->stop_timer_, Timer::Create(machine->options_.loop, [&m = *machine] {
                     if (m.state_ == MachineState::kStopping) {
                       m.End({ExitReason::kStopped, "the guest did not end itself in time"});
                     }
                   }));
  return machine;
}

Machine::~Machine() {
  *alive_ = false;
  vcpu_thread_.reset();
}

absl::Status Machine::AddDevices(MachineConfig& config) {
  DeviceSet::Wiring wiring;
  wiring.vm = &vm_;
  wiring.memory = &memory_;
  wiring.loop = options_.loop;
  wiring.device_lock = &device_lock_;
  wiring.guest_reset = [this] { vcpu_thread_->RequestReset(); };
  wiring.accept = options_.vsock_connection;
  wiring.log = options_.log;
  ASSIGN_OR_RETURN(devices_, DeviceSet::Create(config, std::move(wiring)));
  return absl::OkStatus();
}

absl::Status Machine::LoadGuest(const MachineConfig& config) {
  ASSIGN_OR_RETURN(const auto kernel, x86_64::LoadKernel(config.kernel.get(), memory_));
  std::optional<x86_64::LoadedInitrd> initrd;
  if (config.initrd) {
    ASSIGN_OR_RETURN(initrd, x86_64::LoadInitrd(config.initrd.get(), memory_, kernel.end));
  }
  RETURN_IF_ERROR(x86_64::WriteStartInfo(
      memory_, absl::StrCat(config.command_line, devices_->kernel_parameters()), initrd));
  RETURN_IF_ERROR(x86_64::WriteMpTable(memory_, static_cast<uint8_t>(config.vcpu_count)));
  kernel_entry_ = kernel.entry;
  return absl::OkStatus();
}

absl::Status Machine::AddVcpu(const System& system) {
  ASSIGN_OR_RETURN(Vcpu vcpu, vm_.CreateVcpu(0));
  ASSIGN_OR_RETURN(auto cpuid, system.SupportedCpuid());
  x86_64::AdaptCpuid(cpuid, system.HasExtension(KVM_CAP_TSC_DEADLINE_TIMER));
  RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
  RETURN_IF_ERROR(x86_64::SetPvhEntry(vcpu, kernel_entry_, x86_64::kStartInfoAddress));

  VcpuThread::Options options;
  options.ports = &devices_->ports();
  options.memory = &devices_->memory_bus();
  options.device_lock = &device_lock_;
  options.enter_jail = options_.enter_vcpu_jail;
  options.ended = [this, alive = alive_](ExitOutcome outcome) {
    options_.loop->Post([this, alive, outcome = std::move(outcome)]() mutable {
      if (*alive && state_ != MachineState::kExited) End(std::move(outcome));
    });
  };
  ASSIGN_OR_RETURN(vcpu_thread_, VcpuThread::Create(std::move(vcpu), std::move(options)));
  return absl::OkStatus();
}

absl::Status Machine::Move(MachineEvent event) {
  const auto next = NextState(state_, event);
  if (!next.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine is ", StateName(state_), ", which does not allow this"));
  }
  state_ = *next;
  return absl::OkStatus();
}

absl::Status Machine::Start() {
  RETURN_IF_ERROR(Move(MachineEvent::kStart));
  vcpu_thread_->Resume();
  return absl::OkStatus();
}

absl::Status Machine::Pause() {
  RETURN_IF_ERROR(Move(MachineEvent::kPause));
  vcpu_thread_->Pause();
  return absl::OkStatus();
}

absl::Status Machine::Resume() {
  RETURN_IF_ERROR(Move(MachineEvent::kResume));
  vcpu_thread_->Resume();
  return absl::OkStatus();
}

absl::Status Machine::StopOrderly(uint32_t timeout_ms) {
  if (state_ == MachineState::kCreated || timeout_ms == 0) return StopForced();
  RETURN_IF_ERROR(Move(MachineEvent::kStopOrderly));
  stop_timer_->Arm(uint64_t{timeout_ms} * 1'000'000);
  vcpu_thread_->Resume();
  return absl::OkStatus();
}

absl::Status Machine::StopForced() {
  if (state_ == MachineState::kExited) return Move(MachineEvent::kEnd);
  End({ExitReason::kStopped, "stopped on request"});
  return absl::OkStatus();
}

void Machine::End(ExitOutcome outcome) {
  if (!Move(MachineEvent::kEnd).ok()) return;
  stop_timer_->Disarm();
  vcpu_thread_->Stop();
  {
    absl::MutexLock lock(&device_lock_);
    devices_->FlushConsole();
  }
  options_.loop->Post([this, alive = alive_, outcome = std::move(outcome)]() mutable {
    if (*alive) options_.exited(std::move(outcome));
  });
}

absl::Status Machine::ConnectVsock(uint32_t port, UniqueFd socket) {
  if (state_ == MachineState::kExited) {
    return absl::FailedPreconditionError("the machine has ended");
  }
  absl::MutexLock lock(&device_lock_);
  Vsock* vsock = devices_->vsock();
  if (vsock == nullptr) return absl::FailedPreconditionError("the machine has no vsock device");
  return vsock->ConnectVsock(port, std::move(socket));
}

MachineStatistics Machine::Statistics() {
  MachineStatistics statistics;
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  statistics.process_cpu_ns =
      static_cast<uint64_t>(used.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(used.tv_nsec);
  statistics.vcpu_cpu_ns = vcpu_thread_->CpuNs();
  statistics.exits = vcpu_thread_->exit_count();
  absl::MutexLock lock(&device_lock_);
  for (const auto& block : devices_->blocks()) {
    statistics.block_read_bytes += block->counters().read_bytes;
    statistics.block_write_bytes += block->counters().write_bytes;
  }
  if (Vsock* vsock = devices_->vsock(); vsock != nullptr) {
    statistics.vsock_rx_bytes = vsock->counters().rx_bytes;
    statistics.vsock_tx_bytes = vsock->counters().tx_bytes;
  }
  statistics.console_dropped_bytes = devices_->serial().dropped_bytes();
  statistics.guest_errors = devices_->errors().count() + vcpu_thread_->stray_accesses();
  return statistics;
}

}  // namespace hearth::vmm
