// SPDX-License-Identifier: Apache-2.0
// One instance: its machine, the connection to its agent, and the steps from nothing to ready and
// back.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/backend/machine_backend.h"
#include "control-plane/node/agent_session.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/node/console_tail.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/log_relay.h"
#include "control-plane/pool/pool.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

// A machine's end is reported soon after what it caused: a connection's end, a process that is
// gone.
constexpr absl::Duration kExitFollows = absl::Milliseconds(500);

// hearth.agent.v1 asks for 64 to 512: enough for every generator that is seeded from them.
constexpr size_t kEntropyBytes = 256;

absl::StatusOr<std::string> RandomBytes(size_t count);
// FAILED_PRECONDITION that carries the error.
absl::Status FunctionFailed(absl::string_view what, const hearth::v1::FunctionError& error);
// What a version's new machines are made from.
hearth::snapshot::v1::Images ImagesOf(const LocalNodeConfig& config,
                                      const VersionDescription& version);
// The disks of such a machine, in their order; those of a restored one are like them.
std::vector<MachineDisk> DisksOf(const LocalNodeConfig& config, const VersionDescription& version);

// What all instances of a node share; outlives them.
struct InstanceContext {
  const LocalNodeConfig* config;
  EventLoop* loop;
  Timers* timers;
  Pool* pool;
  LogSink* logs;
};

// What it took to restore an instance; docs/api.md says what each is.
struct RestoreTimes {
  absl::Duration load;
  absl::Duration machine;
  absl::Duration agent;
  absl::Duration identity;
  absl::Duration hooks;
};

// A machine's files while it is saved.
struct SavedMachine {
  UniqueFd state;
  UniqueFd memory;
};

// Boot() and Initialise(), or Restore() and Unpark() instead, are called once, by the thread that
// got the new member from the pool, and Wake() by the one that holds it. The rest is thread-safe.
class Instance final : public PoolMember, public std::enable_shared_from_this<Instance> {
 public:
  Instance(const InstanceContext* context, VersionPtr version, std::string id);

  // From nothing to an agent that is configured. `to_be_saved`: it is to be a snapshot and will not
  // serve. UNAVAILABLE with what went wrong, or CANCELLED.
  absl::Status Boot(const Cancellation& cancellation, bool to_be_saved = false);
  // Starts the function's runtime. FAILED_PRECONDITION with a FunctionError payload when the
  // function failed, else as Boot().
  absl::Status Initialise(const Cancellation& cancellation);

  // Behind Initialise(), once: runs the hooks, parks the agent and saves the machine, which is to
  // be ended then. A hook's failure as Initialise()'s.
  absl::StatusOr<SavedMachine> Save(const Cancellation& cancellation);
  // From a snapshot, which it holds from then on, to an agent that is parked: no user code runs.
  // UNAVAILABLE, CANCELLED, or what the backend says of the snapshot: FAILED_PRECONDITION,
  // INVALID_ARGUMENT, UNIMPLEMENTED; or of the host: RESOURCE_EXHAUSTED.
  absl::Status Restore(std::shared_ptr<const ResidentSnapshot> snapshot,
                       std::vector<MachineDisk> disks, const Cancellation& cancellation,
                       RestoreTimes* times);
  // Behind Restore(), when there is a request: its own identity, then the hooks; it may serve. A
  // hook's failure is FAILED_PRECONDITION with a FunctionError payload; else UNAVAILABLE,
  // CANCELLED.
  absl::Status Unpark(const Cancellation& cancellation, RestoreTimes* times);
  // Given back when the machine and its host resources are gone.
  void KeepWhileAlive(std::shared_ptr<void> lease) ABSL_LOCKS_EXCLUDED(mutex_);
  // Of a restored one: the pages that were used so far.
  absl::StatusOr<WorkingSet> GetWorkingSet();

  // Makes sure that its processors run.
  absl::Status Wake() ABSL_LOCKS_EXCLUDED(power_mutex_);
  // Whether they stood still since this was last asked: the guest's clock may have, too.
  bool TakeStoodStill() ABSL_LOCKS_EXCLUDED(power_mutex_);
  // Stops its processors, if the pool still has it as PAUSED.
  void Pause() ABSL_LOCKS_EXCLUDED(power_mutex_);

  // Ends the machine by force, without waiting.
  void Kill() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends it and waits until its host resources are free; `orderly` gives the agent a chance.
  void Terminate(bool orderly) ABSL_LOCKS_EXCLUDED(mutex_);

  // How the machine ended; waits for it until `deadline`, which is SteadyNow()'s.
  std::optional<MachineExit> AwaitExit(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  bool usable() const override { return usable_.load(std::memory_order_acquire); }
  const VersionDescription& description() const { return *version_; }
  const VersionPtr& version_ptr() const { return version_; }
  // Null when it was booted.
  std::shared_ptr<const ResidentSnapshot> snapshot() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool restored() const { return snapshot() != nullptr; }
  // What it was made from; of one that is being restored, what it will be.
  hearth::snapshot::v1::Images images() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Time created() const { return created_; }
  std::string boot_id() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<AgentSession> session() const ABSL_LOCKS_EXCLUDED(mutex_);
  LogRelay& logs() { return logs_; }
  // Of one that was booted or restored.
  MachineOrigin origin() const ABSL_LOCKS_EXCLUDED(mutex_);
  // CPU time of the VMM so far, or to its end; zero when it cannot be told.
  absl::Duration CpuTime() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using MachineMaker = std::function<absl::StatusOr<std::unique_ptr<Machine>>(UniqueFd console)>;
  absl::Status MakeMachine(const MachineMaker& maker) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<UniqueFd> MakeConsole() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::unique_ptr<Machine>> Create(UniqueFd console);
  absl::Status CallPrepareSnapshot();
  absl::Status CallRestore(RestoreTimes* times) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status ExplainRestore(const absl::Status& status, const Cancellation& cancellation);
  std::string Hostname() const;
  // What user code gets; of one to be saved, what all instances share.
  std::map<std::string, std::string> Environment() const;
  absl::Status Connect(absl::Time deadline);
  absl::Status Configure(absl::Time deadline);
  absl::Status CallStartRuntime();
  // The status of a step that failed, with what is known about why.
  absl::Status Explain(const absl::Status& status, absl::string_view step,
                       const Cancellation& cancellation);
  void OnMachineExit(const MachineExit& exit) ABSL_LOCKS_EXCLUDED(mutex_);
  void BecomeUnusable();
  Machine* machine() const ABSL_LOCKS_EXCLUDED(mutex_);

  const InstanceContext* const context_;
  const VersionPtr version_;
  const std::string id_;
  const absl::Time created_ = absl::Now();
  LogRelay logs_;
  bool to_be_saved_ = false;  // Of the thread that boots it.
  std::atomic<bool> usable_{true};

  absl::Mutex power_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  bool paused_ ABSL_GUARDED_BY(power_mutex_) = false;
  bool stood_still_ ABSL_GUARDED_BY(power_mutex_) = false;

  mutable absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool making_ ABSL_GUARDED_BY(mutex_) = false;         // The backend is at it.
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;          // It is to end; what is not begun must not.
  bool exit_expected_ ABSL_GUARDED_BY(mutex_) = false;  // OnMachineExit() is to come or runs.
  std::optional<MachineExit> exit_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ConsoleTail> console_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<AgentSession> session_ ABSL_GUARDED_BY(mutex_);
  std::string boot_id_ ABSL_GUARDED_BY(mutex_);  // A restored one's own.
  hearth::snapshot::v1::Images images_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ResidentSnapshot> snapshot_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<void> lease_ ABSL_GUARDED_BY(mutex_);
  // Set once; what it points to lives as long as the instance.
  std::unique_ptr<Machine> machine_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
