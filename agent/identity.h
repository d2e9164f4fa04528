// SPDX-License-Identifier: Apache-2.0
// Who this machine is, as its kernel and user code see it. What is unique after a restore and what
// is not: docs/uniqueness.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

inline constexpr size_t kMinEntropyBytes = 32;
inline constexpr size_t kMinRestoreEntropyBytes = 64;
inline constexpr size_t kMaxEntropyBytes = 512;
inline constexpr size_t kMaxHostnameBytes = 64;  // __NEW_UTS_LEN.

// The ids that only files hold. All descriptors are opened when the machine is configured, so that
// a restored one has nothing to look up: each step is one system call on pages that the agent used
// before.
class Identity {
 public:
  Identity() = default;

  // Seeds the kernel's generator, then makes the two files, readable by all, with the ids of this
  // boot: the kernel's boot id (its copy is mounted over the kernel's file in user code's view, for
  // that is read-only), and a machine id for `instance_id`.
  static absl::StatusOr<Identity> Create(const std::string& boot_id_file,
                                         const std::string& machine_id_file,
                                         absl::string_view instance_id, absl::string_view entropy);

  // Credits `entropy` to the kernel's generator and makes it reseed at once.
  absl::Status Seed(absl::string_view entropy);

  // New ids in both files; returns the boot id. To be called after Seed().
  absl::StatusOr<std::string> Renew(absl::string_view instance_id);

 private:
  absl::Status WriteMachineId(absl::string_view instance_id);

  UniqueFd random_;
  UniqueFd boot_id_;
  UniqueFd machine_id_;
};

absl::Status SetHostname(absl::string_view hostname);  // Empty: it is left alone.

// A random UUID (RFC 9562, version 4) from the kernel.
absl::StatusOr<std::string> RandomUuid();

// machine-id(5): 32 lower-case hexadecimal digits. Those of `instance_id` when it is a UUID, else
// empty.
std::string MachineIdOf(absl::string_view instance_id);

}  // namespace hearth::agent
