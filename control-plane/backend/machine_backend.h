// SPDX-License-Identifier: Apache-2.0
// What the control plane knows of machines. backend/kvm drives hearth-vmm; other backends may
// follow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "control-plane/backend/working_set.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// So many virtual processors every machine has.
inline constexpr uint32_t kVcpus = 1;
// So many disks every backend has room for.
inline constexpr size_t kMostDisks = 6;

struct MachineDisk {
  std::string path;
  bool read_only = true;
  std::string serial;  // At most 20 bytes; how the guest finds it.
};

struct MachineSpec {
  std::string id;  // The instance's UUIDv7.
  uint32_t memory_mib = 0;
  std::string kernel_path;
  std::string command_line;
  std::vector<MachineDisk> disks;  // At most kMostDisks.
  // Where the guest's serial console is written, such as a pipe or a file; may be empty. Written
  // without blocking: what a full pipe does not take is dropped. When OnExit is called all of it is
  // there.
  UniqueFd console;
  // Save() will be called: the pages of the file it writes count as the machine's, too.
  bool to_be_saved = false;
};

// A machine to be restored. Kernel, memory size and command line are the saved one's.
struct RestoreSpec {
  std::string id;  // The instance's UUIDv7.
  uint32_t memory_mib = 0;
  int state = -1;   // Both borrowed for the call. What Machine::Save() wrote, authenticated.
  int memory = -1;  // A memfd sealed against writing and shrinking.
  WorkingSet working_set;
  std::vector<MachineDisk> disks;  // Like the saved machine's, in the same order.
  UniqueFd console;                // May be empty.
};

struct MachineExit {
  // kGuestFault: a triple fault, too, by which our guests end; some backends call it a reset.
  // kHostError: something on the host failed and whoever ran the machine could still say what.
  // kLost: nobody could, its process is just gone. A process that was killed is either; `detail`
  // names the signal.
  enum class Reason { kGuestReset, kStopped, kGuestFault, kHostError, kLost };
  Reason reason = Reason::kLost;
  std::string detail;
};

// Since the machine was made: a restored one begins at 0. There is no figure of network bytes, for
// machines have no network device; what goes to the agent and comes from it is counted where it is
// paid for, by invocation.
struct MachineStatistics {
  absl::Duration cpu;  // CPU time of the whole process that runs the guest, from the kernel.
  uint64_t resident_bytes = 0;    // Of that process, guest memory that was touched included.
  uint64_t block_read_bytes = 0;  // Of all disks together, as the guest asked for them.
  uint64_t block_write_bytes = 0;
};

// How a machine's process came to be.
struct MachineOrigin {
  bool waited = false;      // It had been spawned ahead of demand.
  absl::Duration ready;     // From the order to make it until the process was ready for it.
  std::string vmm_version;  // As the process says; empty: it does not.
};

// One virtual machine. Thread-safe. Destroyed, it is ended by force; its process is reaped and its
// host resources freed by then.
class Machine {
 public:
  virtual ~Machine() = default;
  virtual absl::Status Start() = 0;
  // Deadlines, here and below, are SteadyNow()'s. Waits for the agent's stream: connected,
  // non-blocking; the first call after a start.
  virtual absl::StatusOr<UniqueFd> AcceptAgent(absl::Time deadline) = 0;
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // While paused: writes its state and its memory, as long as the guest's, into two empty files.
  // It stays paused, or has ended (survives_save).
  virtual absl::Status Save(int state, int memory) {
    static_cast<void>(state), static_cast<void>(memory);
    return absl::UnimplementedError("this backend cannot save a machine");
  }
  // Of a restored machine: which of its pages were used since.
  virtual absl::StatusOr<WorkingSet> GetWorkingSet() {
    return absl::UnimplementedError("this backend cannot tell what a machine used");
  }
  virtual absl::StatusOr<MachineStatistics> Statistics() = 0;
  virtual MachineOrigin origin() const { return {}; }
  // MachineStatistics::cpu alone: cheap, asks the VMM nothing.
  virtual absl::StatusOr<absl::Duration> CpuTime() = 0;
  // Ends it by force without waiting; OnExit follows. Any thread, any number of times.
  virtual void Kill() = 0;
  // Waits for the guest to reset until the deadline, then ends it by force.
  virtual absl::Status Stop(absl::Time deadline) = 0;
  // Called once when the machine has ended, from the backend's thread, never with its locks held;
  // at once when it already has. Must not block, nor destroy the machine.
  virtual void OnExit(std::function<void(const MachineExit&)> callback) = 0;
};

struct BackendCapabilities {
  std::string name;  // "kvm"
  // A saved machine can be restored any number of times at once; else once at a time: Restore() of
  // one whose former restore is still there is RESOURCE_EXHAUSTED.
  bool clones = false;
  // Save() leaves the machine paused; else it has ended when Save() returns, and OnExit tells that
  // it was stopped.
  bool survives_save = true;
  bool hot_restore = false;
  bool memory_sharing = false;
  // The agents are reached over vsock; else over a virtio-serial port. libvirt's backend says so
  // once it has reached its host, which decides.
  bool vsock = true;
  // The process that answers for a machine runs its guest; else it tells which one does.
  bool own_process = true;
};

class MachineBackend {
 public:
  virtual ~MachineBackend() = default;
  // A machine with its kernel loaded, not running yet.
  virtual absl::StatusOr<std::unique_ptr<Machine>> Create(MachineSpec spec) = 0;
  // A machine that runs on from where it was saved; its agent connects anew (AcceptAgent).
  // FAILED_PRECONDITION when the saved one does not fit this host.
  virtual absl::StatusOr<std::unique_ptr<Machine>> Restore(RestoreSpec spec) {
    static_cast<void>(spec);
    return absl::UnimplementedError("this backend cannot restore a machine");
  }
  // The ids of the machines whose process runs, in no order: those of Create() and Restore() that
  // were not destroyed, as far as whoever spawned their processes finds them running when asked. A
  // machine whose OnExit was called is not among them. UNAVAILABLE when nobody answers.
  virtual absl::StatusOr<std::vector<std::string>> ListAlive() {
    return absl::UnimplementedError("this backend cannot tell which machines are alive");
  }
  // The version of the VMM that new machines get, as it says itself: what one saved another may not
  // restore. UNIMPLEMENTED, or why none can be asked now.
  virtual absl::StatusOr<std::string> VmmVersion() {
    return absl::UnimplementedError("this backend's VMMs do not tell their version");
  }
  // How many VMM processes to keep spawned ahead of demand; Create() and Restore() use them.
  virtual void SetWaiting(size_t count) { static_cast<void>(count); }
  virtual BackendCapabilities capabilities() const = 0;
};

}  // namespace hearth::control
