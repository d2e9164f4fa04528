// SPDX-License-Identifier: Apache-2.0
#include "agent/machine.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/files.h"
#include "agent/mounts.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {
namespace {

constexpr size_t kMinEntropyBytes = 32;
constexpr size_t kMaxEntropyBytes = 512;
// For the kernel's own use and the agent's, of a machine without a limit of its own.
constexpr uint64_t kReserveBytes = 24 * 1024 * 1024;
constexpr uint64_t kSmallestMemoryBytes = 16 * 1024 * 1024;

absl::Status AddEntropy(const std::string& entropy) {
  if (entropy.size() < kMinEntropyBytes || entropy.size() > kMaxEntropyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("entropy of ", entropy.size(), " bytes; 32 to 512 are wanted"));
  }
  // struct rand_pool_info ends in a flexible array of int.
  std::vector<uint32_t> buffer(2 + (entropy.size() + 3) / 4);
  buffer[0] = static_cast<uint32_t>(entropy.size() * 8);
  buffer[1] = static_cast<uint32_t>(entropy.size());
  std::memcpy(&buffer[2], entropy.data(), entropy.size());
  UniqueFd random(open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!random) return ErrnoStatus("open /dev/urandom");
  if (ioctl(random.get(), RNDADDENTROPY, buffer.data()) != 0) return ErrnoStatus("RNDADDENTROPY");
  if (ioctl(random.get(), RNDRESEEDCRNG) != 0) return ErrnoStatus("RNDRESEEDCRNG");
  return absl::OkStatus();
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
  RETURN_IF_ERROR(AddEntropy(configure.entropy()));
  if (configure.wall_clock_unix_ns() > 0) {
    const timespec now = {configure.wall_clock_unix_ns() / 1'000'000'000,
                          configure.wall_clock_unix_ns() % 1'000'000'000};
    if (clock_settime(CLOCK_REALTIME, &now) != 0) return ErrnoStatus("clock_settime");
  }
  if (!configure.hostname().empty() &&
      sethostname(configure.hostname().data(), configure.hostname().size()) != 0) {
    return ErrnoStatus(absl::StrCat("sethostname ", configure.hostname()));
  }
  ConfiguredMachine configured{.user_root = kUserRoot, .limits = {}};
  ASSIGN_OR_RETURN(configured.limits, LimitsOf(configure.limits()));
  const uint64_t writable_bytes = configure.limits().writable_bytes();
  RETURN_IF_ERROR(MountUserRoot(
      configure, writable_bytes == 0 ? configured.limits.memory_bytes / 2 : writable_bytes));
  return configured;
}

void GuestMachine::Reset() {
  sync();
  reboot(RB_AUTOBOOT);
  // Reset is by the keyboard controller or a triple fault; the machine is gone before this loop.
  while (true) pause();
}

}  // namespace hearth::agent
