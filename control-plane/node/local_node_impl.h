// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "control-plane/node/background_builds.h"
#include "control-plane/node/instance.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/log_relay.h"
#include "control-plane/node/restore_leases.h"
#include "control-plane/node/task_pool.h"
#include "control-plane/node/version_snapshots.h"
#include "control-plane/node/waiting_policy.h"
#include "control-plane/pool/pool.h"
#include "control-plane/pool/timers.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/event_loop.h"

namespace hearth::control {

// An instance taken from the pool; gives it back when it goes. One thread at a time.
class HeldInstance final : public Reservation {
 public:
  HeldInstance(Pool* pool, std::shared_ptr<Instance> held)
      : instance(std::move(held)), pool_(pool) {}
  HeldInstance(const HeldInstance&) = delete;
  HeldInstance& operator=(const HeldInstance&) = delete;
  ~HeldInstance() override { pool_->Release(instance, served, reusable && instance->usable()); }

  hearth::v1::StartKind start_kind() const override { return kind; }
  std::string instance_name() const override { return instance->name(); }

  const std::shared_ptr<Instance> instance;
  hearth::v1::StartKind kind = hearth::v1::WARM;
  bool served = false;
  bool reusable = true;
  absl::Time granted = absl::InfinitePast();
  absl::Duration queued;
  absl::Duration boot;
  absl::Duration init;
  absl::Duration boot_cpu;
  absl::Duration restore;
  RestoreTimes restored;
  bool was_resident = false;  // The snapshot's memory.

 private:
  Pool* const pool_;
};

absl::Status EndedWhileStarting();

class LocalNode::Impl final : public PoolDelegate {
 public:
  Impl(LocalNodeConfig node_config, std::unique_ptr<EventLoop> event_loop);
  ~Impl() override;

  void PauseMember(PoolMemberPtr member) override;
  void StopMember(PoolMemberPtr member, bool orderly) override;

  // Of versions at `prefix` or below it.
  void CancelBackground(const std::string& prefix);
  // An instance of `version` that is ready to serve; sees to those ahead of demand.
  absl::StatusOr<std::unique_ptr<HeldInstance>> Hold(const VersionPtr& version, absl::Time deadline,
                                                     const PrepareProgress& progress,
                                                     const Cancellation& cancellation);
  absl::StatusOr<std::unique_ptr<HeldInstance>> HoldReady(const VersionPtr& version,
                                                          absl::Time deadline,
                                                          const PrepareProgress& progress,
                                                          const Cancellation& cancellation);
  bool WantsAhead(const std::string& version) const;
  void MakeAhead(const VersionPtr& version, const Cancellation& cancellation);
  // Boots a new instance and makes it ready.
  absl::Status Make(HeldInstance& held, const PrepareProgress& progress,
                    const Cancellation& cancellation, bool to_be_saved = false);
  // Whether an instance may be restored from it now; it has the lease from then on.
  bool Lease(Instance& instance, const ResidentSnapshot& snapshot);
  // Restores one, local_node_restore.cc.
  absl::Status MakeRestored(HeldInstance& held,
                            const std::shared_ptr<const ResidentSnapshot>& snapshot,
                            const Cancellation& cancellation);
  bool WasDrained(const HeldInstance& held) const;
  // Asks for what `held` has shown to be wanted, unless its version is being drained.
  void AddFor(const HeldInstance& held, const VersionPtr& version, BackgroundBuilds& work);
  absl::StatusOr<std::unique_ptr<HeldInstance>> HoldNew(const VersionPtr& version,
                                                        const Cancellation& cancellation,
                                                        PoolWish wish = PoolWish::kFresh);
  absl::StatusOr<std::vector<MachineDisk>> DisksFor(const VersionDescription& version,
                                                    const hearth::snapshot::v1::Images& images);
  void Record(const std::shared_ptr<Instance>& instance);
  void MachineMade();

  // The making of snapshots, local_node_snapshots.cc.
  absl::StatusOr<PreparedVersion> Build(const VersionPtr& version, const PrepareProgress& progress,
                                        const Cancellation& cancellation);
  absl::StatusOr<hearth::snapshot::v1::Header> BuildStored(const VersionPtr& version,
                                                           const PrepareProgress& progress,
                                                           const Cancellation& cancellation,
                                                           PreparedVersion* prepared,
                                                           SnapshotPin* pin);
  absl::StatusOr<hearth::snapshot::v1::Header> Publish(
      const Instance& instance, const SavedMachine& saved, const PreparedVersion& prepared,
      absl::Duration cpu, const Cancellation& cancellation, SnapshotPin* pin);
  absl::Status Try(const VersionPtr& version, const hearth::snapshot::v1::Header& header,
                   const Cancellation& cancellation);
  bool WantsBuild(const VersionDescription& version);
  void BuildInBackground(const HeldInstance& held);
  // Ends one that was being made while a snapshot of other images began to serve.
  void RetireIfOld(const Instance& instance);
  // Ends the version's instances that were made from other images.
  void RetireOld(const std::string& version, const hearth::snapshot::v1::Images& images);
  void Upkeep();

  LocalNodeConfig config;
  const BackendCapabilities capabilities = config.backend->capabilities();
  // A backend with clones restores another as fast as it would be asked for.
  const size_t instances_ahead = capabilities.clones ? 0 : config.instances_ahead;
  UuidGenerator uuids;
  LogSink logs;
  const std::unique_ptr<EventLoop> loop;
  TaskPool tasks;
  // Behind the pool it calls back into, so that it goes first.
  Pool pool;
  ThreadTimers timers;
  const InstanceContext context;
  std::thread loop_thread;
  absl::Mutex waiting_mutex;
  WaitingPolicy waiting ABSL_GUARDED_BY(waiting_mutex){config.waiting_vmms,
                                                       config.max_waiting_vmms};
  // The host's memory, as the upkeep saw it last.
  uint64_t available_bytes ABSL_GUARDED_BY(waiting_mutex) = 0;
  uint64_t total_bytes ABSL_GUARDED_BY(waiting_mutex) = 0;
  // Null without snapshots.
  std::unique_ptr<VersionSnapshots> snapshots;
  RestoreLeases leases;
  BackgroundBuilds builds;
  BackgroundBuilds ahead;
  absl::Mutex upkeep_mutex;
  bool ending ABSL_GUARDED_BY(upkeep_mutex) = false;
  Timers::Id upkeep_timer ABSL_GUARDED_BY(upkeep_mutex) = 0;
};

}  // namespace hearth::control
