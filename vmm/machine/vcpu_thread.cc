// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/vcpu_thread.h"

#include <signal.h>
#include <time.h>

#include <cerrno>

#include "absl/strings/str_format.h"
#include "vmm/machine/limits.h"

namespace hearth::vmm {
namespace {

// Interrupts KVM_RUN; its handler does nothing. Directed at one thread, so it needs no mask.
int KickSignal() { return SIGRTMIN; }

absl::Status InstallKickHandler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  if (sigaction(KickSignal(), &action, nullptr) != 0) return ErrnoStatus("sigaction");
  return absl::OkStatus();
}

uint64_t ThreadCpuNs(clockid_t clock) {
  timespec used{};
  if (clock_gettime(clock, &used) != 0) return 0;
  return static_cast<uint64_t>(used.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(used.tv_nsec);
}

}  // namespace

absl::StatusOr<std::unique_ptr<VcpuThread>> VcpuThread::Spawn(
    const std::function<absl::Status()>& enter_jail) {
  RETURN_IF_ERROR(InstallKickHandler());
  std::unique_ptr<VcpuThread> self(new VcpuThread(enter_jail));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kVcpuStackBytes);
  const int error = pthread_create(&self->thread_, &attributes, &VcpuThread::Entry, self.get());
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    self->joined_ = true;
    return ErrnoStatus(error, "pthread_create for a vCPU");
  }
  absl::Status jail_status;
  {
    MutexLock lock(&self->mutex_);
    while (self->phase_ == Phase::kStarting) self->changed_.Wait(&self->mutex_);
    jail_status = self->jail_status_;
  }
  RETURN_IF_ERROR(jail_status);
  return self;
}

void VcpuThread::Assign(Vcpu vcpu, Options options) {
  MutexLock lock(&mutex_);
  vcpu_.emplace(std::move(vcpu));
  options_ = std::move(options);
}

VcpuThread::~VcpuThread() { Stop(); }

void VcpuThread::Resume() {
  MutexLock lock(&mutex_);
  if (command_ == Command::kPark) SetCommand(Command::kRun);
}

void VcpuThread::SetCommand(Command command) {
  command_ = command;
  changed_.SignalAll();
}

void VcpuThread::MoveTo(Phase phase) {
  phase_ = phase;
  changed_.SignalAll();
}

void VcpuThread::Interrupt() {
  if (vcpu_.has_value()) vcpu_->SetImmediateExit(true);
  if (phase_ == Phase::kRunning) pthread_kill(thread_, KickSignal());
}

void VcpuThread::RequestPause() {
  MutexLock lock(&mutex_);
  if (command_ != Command::kRun) return;
  SetCommand(Command::kPark);
  Interrupt();
}

bool VcpuThread::AwaitPause() {
  MutexLock lock(&mutex_);
  while (phase_ != Phase::kParked && phase_ != Phase::kEnded) changed_.Wait(&mutex_);
  return phase_ == Phase::kParked;
}

void VcpuThread::RequestStop() {
  if (joined_) return;
  MutexLock lock(&mutex_);
  SetCommand(Command::kStop);
  Interrupt();
}

void VcpuThread::Stop() {
  if (joined_) return;
  RequestStop();
  pthread_join(thread_, nullptr);
  joined_ = true;
}

uint64_t VcpuThread::CpuNs() const {
  MutexLock lock(&mutex_);
  clockid_t clock;
  // The thread cannot end while we hold the lock, so its clock is valid.
  if (phase_ == Phase::kEnded || pthread_getcpuclockid(thread_, &clock) != 0) return final_cpu_ns_;
  return ThreadCpuNs(clock);
}

void* VcpuThread::Entry(void* self) {
  static_cast<VcpuThread*>(self)->Main();
  return nullptr;
}

bool VcpuThread::AwaitRunCommand() {
  MutexLock lock(&mutex_);
  if (command_ == Command::kPark) MoveTo(Phase::kParked);
  while (command_ == Command::kPark) changed_.Wait(&mutex_);
  if (command_ == Command::kStop) return false;
  vcpu_->SetImmediateExit(false);
  MoveTo(Phase::kRunning);
  return true;
}

void VcpuThread::End(const ExitOutcome* outcome) {
  bool announce;
  {
    MutexLock lock(&mutex_);
    announce = outcome != nullptr && command_ != Command::kStop;
  }
  // Before the phase changes, so that nobody destroys us meanwhile without joining.
  if (announce) options_.ended(*outcome);
  MutexLock lock(&mutex_);
  final_cpu_ns_ = ThreadCpuNs(CLOCK_THREAD_CPUTIME_ID);
  MoveTo(Phase::kEnded);
}

void VcpuThread::Main() {
  if (enter_jail_) {
    absl::Status status = enter_jail_();
    if (!status.ok()) {
      MutexLock lock(&mutex_);
      jail_status_ = std::move(status);
      MoveTo(Phase::kEnded);
      return;
    }
  }
  while (AwaitRunCommand()) {
    for (;;) {
      const auto result = vcpu_->Run();
      exits_.fetch_add(1, std::memory_order_relaxed);
      ExitOutcome outcome;
      if (!result.ok()) {
        outcome = {ExitReason::kHostError, std::string(result.status().message())};
        return End(&outcome);
      }
      if (*result == Vcpu::RunResult::kInterrupted) break;
      if (HandleExit(outcome)) return End(&outcome);
    }
  }
  End(nullptr);
}

bool VcpuThread::HandleExit(ExitOutcome& outcome) {
  if (options_.memory_gone != nullptr && options_.memory_gone->load()) {
    outcome = {ExitReason::kHostError, "the machine's memory has gone"};
    return true;
  }
  const kvm_run& run = vcpu_->run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      HandlePortAccess();
      break;
    case KVM_EXIT_MMIO:
      HandleMemoryAccess();
      break;
    case KVM_EXIT_SHUTDOWN:
      outcome = {ExitReason::kGuestFault, "triple fault"};
      return true;
    case KVM_EXIT_SYSTEM_EVENT:
      outcome = {ExitReason::kGuestReset, absl::StrCat("system event ", run.system_event.type)};
      return true;
    case KVM_EXIT_INTERNAL_ERROR:
      outcome = DescribeInternalError();
      return true;
    case KVM_EXIT_FAIL_ENTRY:
      outcome = {ExitReason::kHostError,
                 absl::StrFormat("KVM could not enter the guest: hardware reason 0x%x",
                                 run.fail_entry.hardware_entry_failure_reason)};
      return true;
    default:
      outcome = {ExitReason::kHostError, absl::StrCat("unexpected KVM exit ", run.exit_reason)};
      return true;
  }
  if (options_.reset_requested->load(std::memory_order_relaxed)) {
    outcome = {ExitReason::kGuestReset, "reset through the keyboard controller"};
    return true;
  }
  return false;
}

void VcpuThread::HandlePortAccess() {
  const auto& io = vcpu_->run().io;
  std::span<uint8_t> data = vcpu_->run_area().subspan(io.data_offset, size_t{io.size} * io.count);
  uint64_t stray = 0;
  MutexLock lock(options_.device_lock);
  for (; !data.empty(); data = data.subspan(io.size)) {
    const auto access = data.first(io.size);
    const bool answered = io.direction == KVM_EXIT_IO_IN ? options_.ports->Read(io.port, access)
                                                         : options_.ports->Write(io.port, access);
    if (!answered) ++stray;
  }
  stray_accesses_.fetch_add(stray, std::memory_order_relaxed);
}

void VcpuThread::HandleMemoryAccess() {
  auto& mmio = vcpu_->run().mmio;
  const std::span<uint8_t> access(mmio.data, mmio.len);
  MutexLock lock(options_.device_lock);
  const bool answered = mmio.is_write != 0 ? options_.memory->Write(mmio.phys_addr, access)
                                           : options_.memory->Read(mmio.phys_addr, access);
  if (!answered) stray_accesses_.fetch_add(1, std::memory_order_relaxed);
}

ExitOutcome VcpuThread::DescribeInternalError() {
  const uint32_t suberror = vcpu_->run().internal.suberror;
  const auto regs = vcpu_->GetRegs();
  const std::string at = regs.ok() ? absl::StrFormat(" at RIP 0x%x", regs->rip) : "";
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return {ExitReason::kGuestFault,
              absl::StrCat("the guest executed what KVM cannot emulate", at)};
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return {ExitReason::kGuestFault, absl::StrCat("KVM could not deliver an event", at)};
    default:
      return {ExitReason::kHostError, absl::StrCat("KVM internal error ", suberror, at)};
  }
}

}  // namespace hearth::vmm
