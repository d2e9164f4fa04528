// SPDX-License-Identifier: Apache-2.0
// A node in this process: machines of a backend, the agents in them, and a pool that reuses them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "control-plane/backend/machine_backend.h"
#include "control-plane/limits.h"
#include "control-plane/node/node.h"
#include "control-plane/snapshots/snapshot_store.h"
#include "vmm/base/host_memory.h"

namespace hearth::control {

// How many instances a process that may have `open_files` has descriptors for, beside all else that
// it opens.
constexpr size_t InstancesWithin(uint64_t open_files) {
  // Of each: its control socket, its process or two, its agent and its console as long as it
  // lives; and a few more while it is made.
  constexpr uint64_t kOfInstance = 8;
  constexpr uint64_t kOfAllElse = 256;
  return open_files < kOfAllElse + kOfInstance ? 1 : (open_files - kOfAllElse) / kOfInstance;
}

// docs/limits.md lists these with what they imply.
struct LocalNodeConfig {
  // Makes the machines (KvmBackend::Create in backend/kvm/kvm_backend.h).
  std::unique_ptr<MachineBackend> backend;
  ImageFile kernel;
  ImageFile agent;
  std::string build;              // Told to the agents, for their logs.
  std::string kernel_parameters;  // Added to the guests' command line.

  // Host memory for all instances together; 0: nine tenths of what the host has available now.
  uint64_t memory_capacity_mib = 0;
  // Of that default, what is left to others: to snapshots that nobody holds.
  uint64_t set_aside_mib = 0;
  // How many times that default guests may be promised together.
  double overcommit = 1;
  // What an instance costs beside its guest's memory.
  uint64_t memory_overhead_mib = 8;

  // Instances at once, whatever their memory: see InstancesWithin().
  size_t max_instances = SIZE_MAX;

  // How long an instance idles before its processors are stopped, and before it is ended. Zero
  // pauses or ends it at once.
  absl::Duration idle_pause = absl::Milliseconds(500);
  absl::Duration idle_stop = absl::Minutes(5);

  // Reservations that may wait for memory or for an instance, and for how long at most.
  size_t queue_limit = 512;
  absl::Duration queue_wait = absl::Seconds(30);

  // From spawn until the agent has said Hello and is configured.
  absl::Duration boot_timeout = absl::Seconds(30);
  // What the agent gets beyond a timeout to report it, before the machine is ended by force.
  absl::Duration timeout_grace = absl::Seconds(2);
  // How long an agent has to confirm that an invocation was cancelled.
  absl::Duration cancel_grace = absl::Seconds(2);

  uint64_t max_response_bytes = limits::kMaxResponseBytes;

  // Null: every instance boots, and Prepare() leaves its instance to the pool.
  std::unique_ptr<SnapshotStore> snapshots;
  hearth::snapshot::v1::Host host;  // This one (snapshots/host.h), for the snapshots' headers.
  ImageKeeper* images = nullptr;    // Outlives the node. Null: only the versions' own images.
  // What hooks get before a snapshot, and again after a restore.
  absl::Duration hook_timeout = absl::Seconds(10);
  // Snapshots that are made in the background at once; deployments' own are beside that.
  int background_builds = 1;
  // Of how many recordings a working set is made; the first without an invocation.
  uint32_t working_set_recordings = 4;
  // How long a snapshot may be unused before it is deleted.
  absl::Duration snapshot_idle = absl::InfiniteDuration();
  // VMM processes spawned ahead of demand: so many, or as recent demand says up to the bound.
  absl::optional<size_t> waiting_vmms;
  size_t max_waiting_vmms = 8;
  // Where a snapshot serves one instance at a time: how many instances of a version that has
  // several busy ones are kept idle beside them, booted ahead of demand while there is memory to
  // spare.
  size_t instances_ahead = 1;
  // What the host has left, and in all. Default: ReadHostMemory().
  std::function<HostMemory()> host_memory;

  // Limits on user code in the guest; 0: the agent's own choice.
  uint32_t process_count = 0;
  uint32_t open_files = 0;
};

// Thread-safe. Destroyed, it ends every instance and waits for that; no call may be under way then.
class LocalNode final : public Node {
 public:
  static absl::StatusOr<std::unique_ptr<LocalNode>> Create(LocalNodeConfig config);
  ~LocalNode() override;

  absl::StatusOr<PreparedVersion> Prepare(VersionPtr version, PrepareProgress progress,
                                          const Cancellation& cancellation) override;
  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(VersionPtr version, absl::Time deadline,
                                                       const Cancellation& cancellation) override;
  absl::StatusOr<InvocationReport> Invoke(std::unique_ptr<Reservation> reservation,
                                          const InvocationRequest& request, ResponseSink& response,
                                          const Cancellation& cancellation) override;
  absl::Status Drain(const std::string& prefix, bool force) override;
  void Retire(const std::string& version_name) override;
  void Watch(NodeObserver* observer) override;
  std::vector<hearth::v1::Instance> ListInstances() override;
  absl::StatusOr<hearth::v1::Snapshot> RebuildSnapshot(VersionPtr version, PrepareProgress progress,
                                                       const Cancellation& cancellation) override;
  void Refresh(VersionPtr version) override;
  std::vector<hearth::v1::Snapshot> ListSnapshots() override;
  std::string SnapshotOf(const std::string& version_name) override;
  absl::Status DeleteSnapshot(const std::string& name) override;
  void ForgetSnapshots(const std::string& prefix) override;
  void RetainSnapshots(const std::set<std::string>& version_uids) override;
  uint64_t memory_capacity_mib() const override;

  size_t max_instances() const;
  const BackendCapabilities& capabilities() const;

 private:
  class Impl;
  explicit LocalNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::control
