// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/machine_config.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vcpu_thread.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

struct MachineStatistics {
  uint64_t vcpu_cpu_ns = 0;
  uint64_t process_cpu_ns = 0;
  uint64_t exits = 0;
  uint64_t block_read_bytes = 0;
  uint64_t block_write_bytes = 0;
  uint64_t vsock_rx_bytes = 0;  // From the guest.
  uint64_t vsock_tx_bytes = 0;
  uint64_t console_dropped_bytes = 0;
  uint64_t guest_errors = 0;
};

// One virtual machine. Threads: everything on the loop's thread; the vCPU has its own.
class Machine {
 public:
  struct Options {
    const System* system = nullptr;  // Used by Create() only.
    std::optional<Vm> vm;            // A fresh VM; made by Create() when there is none.
    EventLoop* loop = nullptr;       // Outlives the machine.
    // Once, from the loop, after the machine has ended in whatever way.
    std::function<void(ExitOutcome)> exited;
    // The guest connected to one of its host ports. From the loop, with the device lock held: must
    // not call the machine. An error refuses the connection.
    Vsock::AcceptCallback vsock_connection;
    std::function<absl::Status()> enter_vcpu_jail;  // See VcpuThread; may be empty.
    GuestErrors::Log log;                           // May be empty.
  };

  // Builds the machine and loads its kernel. INVALID_ARGUMENT where `config` is at fault.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(MachineConfig config, Options options);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // FAILED_PRECONDITION when the state does not allow it (machine_state.h).
  absl::Status Start();
  // Returns when no vCPU is in the guest.
  absl::Status Pause();
  absl::Status Resume();
  // Waits for the guest to end itself, at most until the deadline; then forces it.
  absl::Status StopOrderly(uint32_t timeout_ms);
  absl::Status StopForced();

  // Opens a stream to the guest's `port`; `socket` is closed when the guest refuses.
  absl::Status ConnectVsock(uint32_t port, UniqueFd socket);
  MachineStatistics Statistics();

  MachineState state() const { return state_; }
  const GuestMemory& memory() const { return memory_; }
  // Only while paused.
  Vcpu& vcpu() { return vcpu_thread_->vcpu(); }

 private:
  Machine(Vm vm, GuestMemory memory, Options options)
      : options_(std::move(options)), vm_(std::move(vm)), memory_(std::move(memory)) {}

  absl::Status AddDevices(MachineConfig& config);
  absl::Status LoadGuest(const MachineConfig& config);
  absl::Status AddVcpu(const System& system);
  absl::Status Move(MachineEvent event);
  // Ends the machine: the vCPU is stopped, `exited` will be called from the loop.
  void End(ExitOutcome outcome);

  Options options_;
  MachineState state_ = MachineState::kCreated;
  // Tells the tasks that were posted to the loop whether the machine still exists.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  Vm vm_;
  GuestMemory memory_;
  absl::Mutex device_lock_;
  std::unique_ptr<DeviceSet> devices_;
  uint32_t kernel_entry_ = 0;
  std::unique_ptr<Timer> stop_timer_;
  std::unique_ptr<VcpuThread> vcpu_thread_;  // Last: it stops before anything it uses goes.
};

}  // namespace hearth::vmm
