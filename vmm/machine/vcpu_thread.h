// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/vcpu.h"

namespace hearth::vmm {

enum class ExitReason {
  kGuestReset,  // The guest reset itself: its orderly way to end.
  kStopped,     // By a request.
  kGuestFault,  // The guest did what no machine could go on from.
  kHostError,   // KVM or a system call failed.
};

struct ExitOutcome {
  ExitReason reason;
  std::string detail;
};

// The thread that enters one vCPU and answers its port and memory accesses.
//
// A request never gets lost between the thread's look at it and KVM_RUN: the requester sets
// immediate_exit before it sends the signal, both under mutex_, and the thread clears
// immediate_exit only under mutex_ after it has looked. Requests are looked at only when KVM_RUN
// was interrupted, for then the access of the exit before is committed and the vCPU's registers are
// whole.
//
// Threads: the controlling thread calls everything.
class VcpuThread {
 public:
  struct Options {
    const Bus* ports = nullptr;  // Both outlive the thread.
    const Bus* memory = nullptr;
    Mutex* device_lock = nullptr;
    // Set by a device while it handles a write, when the guest asked for a reset; looked at after
    // every access. Shared by the machine's vCPUs.
    const std::atomic<bool>* reset_requested = nullptr;
    // Guest memory was taken away (PagedMemory): KVM then reports some accesses to RAM as if they
    // went to a device. Looked at before every one; may be none.
    const std::atomic<bool>* memory_gone = nullptr;
    // The vCPU will not run again, by itself; not called after Stop(). On the vCPU's thread.
    std::function<void(ExitOutcome)> ended;
  };

  // Starts the thread, parked and without a vCPU: it can be had before there is a machine. It runs
  // `enter_jail`, which loads its seccomp filter and may be empty, first; this returns after it.
  static absl::StatusOr<std::unique_ptr<VcpuThread>> Spawn(
      const std::function<absl::Status()>& enter_jail);
  // Once, before Resume().
  void Assign(Vcpu vcpu, Options options) ABSL_LOCKS_EXCLUDED(mutex_);
  // Stops and joins.
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  void Resume() ABSL_LOCKS_EXCLUDED(mutex_);
  // Kicks the vCPU out of the guest and does not wait: so several are paused at once.
  void RequestPause() ABSL_LOCKS_EXCLUDED(mutex_);
  // After RequestPause(): returns when the vCPU is outside the guest and every access it made is
  // done. The caller must not hold the device lock. False when it has ended: it will not go on.
  bool AwaitPause() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the thread; idempotent. RequestStop() first stops several at once.
  void RequestStop() ABSL_LOCKS_EXCLUDED(mutex_);
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  uint64_t exit_count() const { return exits_.load(std::memory_order_relaxed); }
  // Accesses that no device answered.
  uint64_t stray_accesses() const { return stray_accesses_.load(std::memory_order_relaxed); }
  // The thread's CPU time; what it was at the end once the thread has ended.
  uint64_t CpuNs() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Only while paused or stopped.
  Vcpu& vcpu() { return *vcpu_; }

 private:
  enum class Command { kPark, kRun, kStop };
  enum class Phase { kStarting, kParked, kRunning, kEnded };

  explicit VcpuThread(std::function<absl::Status()> enter_jail)
      : enter_jail_(std::move(enter_jail)) {}

  static void* Entry(void* self);
  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  // Enters the guest until it is parked (false: stopped or ended).
  bool AwaitRunCommand() ABSL_LOCKS_EXCLUDED(mutex_);
  void End(const ExitOutcome* outcome) ABSL_LOCKS_EXCLUDED(mutex_);
  void Interrupt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetCommand(Command command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MoveTo(Phase phase) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Handles one exit; nothing means that the guest goes on.
  bool HandleExit(ExitOutcome& outcome);
  void HandlePortAccess();
  void HandleMemoryAccess();
  ExitOutcome DescribeInternalError();

  std::function<absl::Status()> enter_jail_;
  // Both are set while the thread is parked, and then never again.
  std::optional<Vcpu> vcpu_;
  Options options_;
  pthread_t thread_{};
  bool joined_ = false;
  std::atomic<uint64_t> exits_{0};
  std::atomic<uint64_t> stray_accesses_{0};

  mutable Mutex mutex_;
  CondVar changed_;  // Either of the two.
  Command command_ ABSL_GUARDED_BY(mutex_) = Command::kPark;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kStarting;
  absl::Status jail_status_ ABSL_GUARDED_BY(mutex_);
  uint64_t final_cpu_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace hearth::vmm
