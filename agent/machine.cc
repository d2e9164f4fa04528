// SPDX-License-Identifier: Apache-2.0
#include "agent/machine.h"

#include <sys/reboot.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "agent/files.h"
#include "agent/mounts.h"
#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

// For the kernel's own use and the agent's, of a machine without a limit of its own.
constexpr uint64_t kReserveBytes = 24 * 1024 * 1024;
constexpr uint64_t kSmallestMemoryBytes = 16 * 1024 * 1024;

// In one tmpfs, so that a restore goes through the same code of the kernel twice: what is touched
// for the first time is what costs there.
constexpr char kBootIdFile[] = "/run/boot_id";
constexpr char kMachineIdFile[] = "/run/machine_id";

absl::Status CheckEntropy(const std::string& entropy) {
  if (entropy.size() >= kMinEntropyBytes && entropy.size() <= kMaxEntropyBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("entropy of ", entropy.size(), " bytes; ",
                                                 kMinEntropyBytes, " to ", kMaxEntropyBytes,
                                                 " are wanted"));
}

}  // namespace

absl::StatusOr<CgroupLimits> LimitsOf(const agent::v1::ResourceLimits& limits) {
  CgroupLimits result;
  result.memory_bytes = limits.memory_bytes();
  if (result.memory_bytes == 0) {
    ASSIGN_OR_RETURN(const std::string text, ReadSmallFile("/proc/meminfo"));
    const uint64_t total = NumberAfter(text, "MemTotal") * 1024;
    result.memory_bytes =
        std::max(total > kReserveBytes ? total - kReserveBytes : 0, kSmallestMemoryBytes);
  }
  const uint32_t processes =
      limits.process_count() == 0 ? kDefaultProcessCount : limits.process_count();
  result.process_count =
      processes > UINT32_MAX - kProcessReserve ? processes : processes + kProcessReserve;
  return result;
}

absl::StatusOr<ConfiguredMachine> GuestMachine::Configure(
    const agent::v1::ConfigureInstance& configure) {
  RETURN_IF_ERROR(CheckEntropy(configure.entropy()));
  clock_.emplace();
  RETURN_IF_ERROR(clock_->Set(configure.wall_clock_unix_ns()));
  RETURN_IF_ERROR(SetHostname(configure.hostname()));
  ConfiguredMachine configured{.user_root = kUserRoot, .limits = {}, .boot_id_file = kBootIdFile};
  ASSIGN_OR_RETURN(configured.limits, LimitsOf(configure.limits()));
  const uint64_t writable_bytes = configure.limits().writable_bytes();
  RETURN_IF_ERROR(MountUserRoot(
      configure, writable_bytes == 0 ? configured.limits.memory_bytes / 2 : writable_bytes));
  ASSIGN_OR_RETURN(identity_, Identity::Create(kBootIdFile, kMachineIdFile, configure.instance_id(),
                                               configure.entropy()));
  RETURN_IF_ERROR(MountFile(kMachineIdFile, absl::StrCat(kUserRoot, "/etc/machine-id")));
  return configured;
}

absl::StatusOr<std::string> GuestMachine::Restore(const agent::v1::RestoreInstance& restore) {
  RETURN_IF_ERROR(identity_.Seed(restore.entropy()));
  if (clock_.has_value()) RETURN_IF_ERROR(clock_->Set(restore.wall_clock_unix_ns()));
  RETURN_IF_ERROR(SetHostname(restore.hostname()));
  return identity_.Renew(restore.instance_id());
}

absl::Status GuestMachine::CatchUp(int64_t unix_ns) {
  return clock_.has_value() ? clock_->CatchUp(unix_ns) : absl::OkStatus();
}

void GuestMachine::Reset() {
  sync();
  reboot(RB_AUTOBOOT);
  // Reset is by the keyboard controller or a triple fault; the machine is gone before this loop.
  while (true) pause();
}

}  // namespace hearth::agent
