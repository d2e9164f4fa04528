// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/cgroup.h"
#include "agent/host_clock.h"
#include "agent/identity.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

// What Configure found out.
struct ConfiguredMachine {
  std::string user_root;  // Empty: the agent's own (tests).
  CgroupLimits limits;    // Of all user code together.
  // Holds the boot id that user code is to see; empty (tests): the kernel's own.
  std::string boot_id_file;
};

// Each program has a shim, which is not the user's to count.
inline constexpr uint32_t kProcessReserve = 64;

// The machine around the agent, as far as calls change it. Tests have one that changes nothing.
class Machine {
 public:
  virtual ~Machine() = default;

  // Entropy, clock, host name and the mounts below user code's root. Called once.
  virtual absl::StatusOr<ConfiguredMachine> Configure(
      const agent::v1::ConfigureInstance& configure) = 0;

  // Makes a restored machine one of its own: the kernel's generator, clock, host name, machine id
  // and boot id, which it returns. `restore` is checked already.
  virtual absl::StatusOr<std::string> Restore(const agent::v1::RestoreInstance& restore) = 0;

  // Before user code sees an invocation: the wall clock, where the machine may have stood still.
  // The host's showed `unix_ns`; 0: it did not.
  virtual absl::Status CatchUp(int64_t unix_ns) = 0;

  // Syncs and resets. The real one does not return.
  virtual void Reset() = 0;
};

// The microVM.
class GuestMachine : public Machine {
 public:
  absl::StatusOr<ConfiguredMachine> Configure(
      const agent::v1::ConfigureInstance& configure) override;
  absl::StatusOr<std::string> Restore(const agent::v1::RestoreInstance& restore) override;
  absl::Status CatchUp(int64_t unix_ns) override;
  void Reset() override;

 private:
  std::optional<HostClock> clock_;  // From Configure() on.
  Identity identity_;
};

// The limits that the host asks for; for what it leaves open: all memory but a reserve for kernel
// and agent, and kDefaultProcessCount processes.
inline constexpr uint32_t kDefaultProcessCount = 256;
absl::StatusOr<CgroupLimits> LimitsOf(const agent::v1::ResourceLimits& limits);

}  // namespace hearth::agent
