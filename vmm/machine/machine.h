// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "vmm/base/event_loop.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/machine_config.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vcpu_thread.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/snapshot/memory_file.h"
#include "vmm/snapshot/paged_memory.h"
#include "vmm/snapshot/working_set.h"

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
  uint64_t minor_faults = 0;  // Of the process.
  uint64_t major_faults = 0;
};

struct SavedSizes {
  uint64_t state_bytes = 0;
  MemoryFileSize memory;
};

// One virtual machine. Threads: everything on the loop's thread; each vCPU has its own.
class Machine {
 public:
  struct Options {
    const System* system = nullptr;  // Outlives the machine.
    std::optional<Vm> vm;            // A fresh VM; made by Create() when there is none.
    EventLoop* loop = nullptr;       // Outlives the machine.
    // Once, from the loop, after the machine has ended in whatever way.
    std::function<void(ExitOutcome)> exited;
    // The guest connected to one of its host ports. From the loop, with the device lock held: must
    // not call the machine. An error refuses the connection.
    Vsock::AcceptCallback vsock_connection;
    std::function<absl::Status()> enter_vcpu_jail;  // See VcpuThread; may be empty.
    // For the thread that watches a pager; may be empty.
    std::function<absl::Status()> enter_pager_watch_jail;
    std::unique_ptr<VcpuThread> thread;  // Of vCPU 0, if it was spawned ahead.
    GuestErrors::Log log;                // May be empty.
  };

  // Builds the machine and loads its kernel. INVALID_ARGUMENT where `config` is at fault.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(MachineConfig config, Options options);
  // Builds the machine that was saved; it is paused. Trusts nothing in the state. INVALID_ARGUMENT
  // where the request or the state is at fault, FAILED_PRECONDITION where the state does not fit
  // this host or these devices.
  static absl::StatusOr<std::unique_ptr<Machine>> Restore(RestoreConfig config, Options options);
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

  // While paused: writes state and memory into two empty files. Holds the loop's thread for as long
  // as that takes. The machine may be resumed and saved again, also when this fails.
  absl::StatusOr<SavedSizes> Save(int state_fd, int memory_fd);
  // Which pages were used since the restore. `pagemap_fd`: see ReadWorkingSet().
  absl::StatusOr<std::vector<PageRun>> WorkingSet(int pagemap_fd, size_t max_runs) const;

  // Opens a stream to the guest's `port`; `socket` is closed when the guest refuses.
  absl::Status ConnectVsock(uint32_t port, UniqueFd socket);
  MachineStatistics Statistics();

  MachineState state() const { return state_; }
  const GuestMemory& memory() const { return memory_; }
  size_t vcpu_count() const { return vcpu_threads_.size(); }
  // Only while paused.
  Vcpu& vcpu(size_t index = 0) { return vcpu_threads_[index]->vcpu(); }

 private:
  using Cpuid = std::vector<kvm_cpuid_entry2>;

  Machine(Vm vm, GuestMemory memory, Options options)
      : options_(std::move(options)), vm_(std::move(vm)), memory_(std::move(memory)) {}

  // The machine with its memory, interrupt controller and devices.
  static absl::StatusOr<std::unique_ptr<Machine>> Build(MachineConfig& config, GuestMemory memory,
                                                        Options options);
  absl::Status AddDevices(MachineConfig& config);
  // Returns the kernel's entry point.
  absl::StatusOr<uint32_t> LoadGuest(const MachineConfig& config);
  // `paged` belongs to the memory; none when it is all here.
  static absl::StatusOr<std::unique_ptr<Machine>> RestoreInto(GuestMemory memory,
                                                              std::shared_ptr<PagedMemory> paged,
                                                              RestoreConfig& config,
                                                              Options options);
  static absl::StatusOr<std::unique_ptr<Machine>> RestorePaged(RestoreConfig& config,
                                                               Options options);
  // Ends the machine when its pager goes.
  void WatchPager();
  absl::StatusOr<std::vector<Vcpu>> MakeVcpus(uint32_t count);
  absl::Status RestoreState(const SavedMachineState& saved, std::vector<Vcpu>& vcpus);
  absl::Status StartThreads(std::vector<Vcpu> vcpus);
  absl::Status Move(MachineEvent event);
  // Of vCPUs that are not in the guest; KVM would wait for one that is.
  void ResumeVcpus();
  // Ends the machine: the vCPUs are stopped, `exited` will be called from the loop.
  void End(ExitOutcome outcome);

  Options options_;
  MachineState state_ = MachineState::kCreated;
  // Tells the tasks that were posted to the loop whether the machine still exists.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  Vm vm_;
  GuestMemory memory_;
  std::shared_ptr<PagedMemory> paged_;  // None when the memory is all here.
  bool restored_ = false;
  std::vector<Cpuid> cpuids_;  // What each vCPU was given.
  Mutex device_lock_;
  std::atomic<bool> reset_requested_{false};
  std::unique_ptr<DeviceSet> devices_;
  std::unique_ptr<Timer> stop_timer_;
  // Last: they stop before anything they use goes.
  std::vector<std::unique_ptr<VcpuThread>> vcpu_threads_;
};

}  // namespace hearth::vmm
