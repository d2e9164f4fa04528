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
#include "control-plane/backend/machine_backend.h"
#include "control-plane/node/node.h"

namespace hearth::control {

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
  // What an instance costs beside its guest's memory.
  uint64_t memory_overhead_mib = 8;

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

  uint64_t max_response_bytes = 6 * 1024 * 1024;

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
                                          const InvocationRequest& request, PayloadSource& payload,
                                          ResponseSink& response,
                                          const Cancellation& cancellation) override;
  absl::Status Drain(const std::string& prefix, bool force) override;
  void Watch(NodeObserver* observer) override;
  std::vector<hearth::v1::Instance> ListInstances() override;
  uint64_t memory_capacity_mib() const override;

  const BackendCapabilities& capabilities() const;

 private:
  class Impl;
  explicit LocalNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::control
