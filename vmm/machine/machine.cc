// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/machine.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "vmm/arch/x86_64/boot_data.h"
#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/arch/x86_64/layout.h"

namespace hearth::vmm {
namespace {

void AddFaults(MachineStatistics& statistics) {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return;
  statistics.minor_faults = static_cast<uint64_t>(usage.ru_minflt);
  statistics.major_faults = static_cast<uint64_t>(usage.ru_majflt);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(MachineConfig config, Options options) {
  const System& system = *options.system;
  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::CreateAnonymous(
                                           x86_64::RamRanges(uint64_t{config.memory_mib} << 20)));
  ASSIGN_OR_RETURN(auto machine, Build(config, std::move(memory), std::move(options)));
  ASSIGN_OR_RETURN(const uint32_t entry, machine->LoadGuest(config));
  ASSIGN_OR_RETURN(std::vector<Vcpu> vcpus, machine->MakeVcpus(config.vcpu_count));
  ASSIGN_OR_RETURN(Cpuid cpuid, system.SupportedCpuid());
  x86_64::AdaptCpuid(cpuid, system.HasExtension(KVM_CAP_TSC_DEADLINE_TIMER), config.vcpu_count);
  for (uint32_t id = 0; id < config.vcpu_count; ++id) {
    x86_64::SetCpuidApicId(cpuid, id);
    RETURN_IF_ERROR(vcpus[id].SetCpuid(cpuid));
    machine->cpuids_.push_back(cpuid);
  }
  // The others wait for the guest to send them INIT and SIPI through its local APIC.
  RETURN_IF_ERROR(x86_64::SetPvhEntry(vcpus[0], entry, x86_64::kStartInfoAddress));
  RETURN_IF_ERROR(machine->StartThreads(std::move(vcpus)));
  return machine;
}

absl::StatusOr<std::unique_ptr<Machine>> Machine::Build(MachineConfig& config, GuestMemory memory,
                                                        Options options) {
  for (const auto& region : memory.regions()) {
    // Small pages: a guest pays for what it touches, not for 2 MiB around it. And a tenant's
    // memory has no place in our core dumps. Advice only: a kernel that knows neither is fine.
    madvise(region.mapping.data(), region.mapping.size_bytes(), MADV_NOHUGEPAGE);
    madvise(region.mapping.data(), region.mapping.size_bytes(), MADV_DONTDUMP);
  }
  if (!options.vm.has_value()) {
    ASSIGN_OR_RETURN(options.vm, options.system->CreateVm());
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
  ASSIGN_OR_RETURN(machine->stop_timer_, Timer::Create(machine->options_.loop, [&m = *machine] {
                     if (m.state_ == MachineState::kStopping) {
                       m.End({ExitReason::kStopped, "the guest did not end itself in time"});
                     }
                   }));
  return machine;
}

Machine::~Machine() {
  *alive_ = false;
  if (paged_ != nullptr) paged_->Revoke();
  vcpu_threads_.clear();
}

absl::Status Machine::AddDevices(MachineConfig& config) {
  DeviceSet::Wiring wiring;
  wiring.vm = &vm_;
  wiring.memory = &memory_;
  wiring.loop = options_.loop;
  wiring.device_lock = &device_lock_;
  wiring.guest_reset = [this] { reset_requested_.store(true, std::memory_order_relaxed); };
  wiring.accept = options_.vsock_connection;
  wiring.log = options_.log;
  ASSIGN_OR_RETURN(devices_, DeviceSet::Create(config, std::move(wiring)));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Machine::LoadGuest(const MachineConfig& config) {
  ASSIGN_OR_RETURN(const auto kernel, x86_64::LoadKernel(config.kernel.get(), memory_));
  std::optional<x86_64::LoadedInitrd> initrd;
  if (config.initrd) {
    ASSIGN_OR_RETURN(initrd, x86_64::LoadInitrd(config.initrd.get(), memory_, kernel.end));
  }
  RETURN_IF_ERROR(x86_64::WriteStartInfo(
      memory_, absl::StrCat(config.command_line, devices_->kernel_parameters()), initrd));
  RETURN_IF_ERROR(x86_64::WriteMpTable(memory_, static_cast<uint8_t>(config.vcpu_count)));
  return kernel.entry;
}

absl::StatusOr<std::vector<Vcpu>> Machine::MakeVcpus(uint32_t count) {
  std::vector<Vcpu> vcpus;
  vcpus.reserve(count);
  for (uint32_t id = 0; id < count; ++id) {
    ASSIGN_OR_RETURN(Vcpu vcpu, vm_.CreateVcpu(id));
    vcpus.push_back(std::move(vcpu));
  }
  return vcpus;
}

absl::Status Machine::StartThreads(std::vector<Vcpu> vcpus) {
  VcpuThread::Options options;
  options.ports = &devices_->ports();
  options.memory = &devices_->memory_bus();
  options.device_lock = &device_lock_;
  options.reset_requested = &reset_requested_;
  if (paged_ != nullptr) options.memory_gone = &paged_->revoked();
  options.ended = [this, alive = alive_](ExitOutcome outcome) {
    options_.loop->Post([this, alive, outcome = std::move(outcome)]() mutable {
      if (*alive && state_ != MachineState::kExited) End(std::move(outcome));
    });
  };
  for (Vcpu& vcpu : vcpus) {
    std::unique_ptr<VcpuThread> thread = std::move(options_.thread);
    if (thread == nullptr) {
      ASSIGN_OR_RETURN(thread, VcpuThread::Spawn(options_.enter_vcpu_jail));
    }
    thread->Assign(std::move(vcpu), options);
    vcpu_threads_.push_back(std::move(thread));
  }
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
  ResumeVcpus();
  return absl::OkStatus();
}

absl::Status Machine::Pause() {
  RETURN_IF_ERROR(Move(MachineEvent::kPause));
  for (const auto& thread : vcpu_threads_) thread->RequestPause();
  for (const auto& thread : vcpu_threads_) thread->AwaitPause();
  return absl::OkStatus();
}

absl::Status Machine::Resume() {
  RETURN_IF_ERROR(Move(MachineEvent::kResume));
  ResumeVcpus();
  return absl::OkStatus();
}

void Machine::ResumeVcpus() {
  for (const auto& thread : vcpu_threads_) thread->vcpu().NotifyPaused();
  for (const auto& thread : vcpu_threads_) thread->Resume();
}

absl::Status Machine::StopOrderly(uint32_t timeout_ms) {
  if (state_ == MachineState::kCreated || timeout_ms == 0) return StopForced();
  const bool paused = state_ == MachineState::kPaused;
  RETURN_IF_ERROR(Move(MachineEvent::kStopOrderly));
  stop_timer_->Arm(uint64_t{timeout_ms} * 1'000'000);
  if (paused) ResumeVcpus();
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
  for (const auto& thread : vcpu_threads_) thread->RequestStop();
  // Kernels before 6.3 let no signal interrupt a vCPU that waits for a page.
  if (paged_ != nullptr) paged_->Revoke();
  for (const auto& thread : vcpu_threads_) thread->Stop();
  if (paged_ != nullptr) paged_->Discard();
  {
    MutexLock lock(&device_lock_);
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
  MutexLock lock(&device_lock_);
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
  AddFaults(statistics);
  for (const auto& thread : vcpu_threads_) {
    statistics.vcpu_cpu_ns += thread->CpuNs();
    statistics.exits += thread->exit_count();
    statistics.guest_errors += thread->stray_accesses();
  }
  MutexLock lock(&device_lock_);
  for (const auto& block : devices_->blocks()) {
    statistics.block_read_bytes += block->counters().read_bytes;
    statistics.block_write_bytes += block->counters().write_bytes;
  }
  if (Vsock* vsock = devices_->vsock(); vsock != nullptr) {
    statistics.vsock_rx_bytes = vsock->counters().rx_bytes;
    statistics.vsock_tx_bytes = vsock->counters().tx_bytes;
  }
  statistics.console_dropped_bytes = devices_->serial().dropped_bytes();
  statistics.guest_errors += devices_->errors().count();
  return statistics;
}

}  // namespace hearth::vmm
