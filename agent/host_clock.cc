// SPDX-License-Identifier: Apache-2.0
#include "agent/host_clock.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/timex.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr char kKvmClock[] = "/dev/ptp0";  // The only one of a guest: ptp_kvm's.
constexpr int64_t kNsPerSecond = 1'000'000'000;
// The first touches what has to be touched; of two more, one is undisturbed.
constexpr uint32_t kReadings = 3;

int64_t NsOf(const ptp_clock_time& time) { return time.sec * kNsPerSecond + time.nsec; }

int64_t WallClockNs() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

// By a difference, which is as right when this is held up in between.
absl::Status Advance(int64_t offset_ns) {
  timex change = {};
  change.modes = ADJ_SETOFFSET | ADJ_NANO;
  change.time.tv_sec = offset_ns / kNsPerSecond;
  change.time.tv_usec = offset_ns % kNsPerSecond;  // Nanoseconds, not negative (adjtimex(2)).
  if (change.time.tv_usec < 0) {
    change.time.tv_usec += kNsPerSecond;
    --change.time.tv_sec;
  }
  if (clock_adjtime(CLOCK_REALTIME, &change) < 0) return ErrnoStatus("clock_adjtime");
  return absl::OkStatus();
}

absl::Status SetTo(int64_t unix_ns) {
  const timespec now = {unix_ns / kNsPerSecond, unix_ns % kNsPerSecond};
  if (clock_settime(CLOCK_REALTIME, &now) != 0) return ErrnoStatus("clock_settime");
  return absl::OkStatus();
}

}  // namespace

std::optional<int64_t> HostClockOffsetNs(const ptp_sys_offset& readings) {
  std::optional<int64_t> offset;
  int64_t least = std::numeric_limits<int64_t>::max();
  const uint32_t count = std::min<uint32_t>(readings.n_samples, PTP_MAX_SAMPLES);
  for (uint32_t i = 0; i < count; ++i) {
    // This machine's clock, the host's, this machine's, ... (PTP_SYS_OFFSET).
    const int64_t before = NsOf(readings.ts[2 * i]);
    const int64_t after = NsOf(readings.ts[2 * i + 2]);
    if (after < before || after - before >= least) continue;
    least = after - before;
    offset = NsOf(readings.ts[2 * i + 1]) - (before + least / 2);
  }
  return offset;
}

HostClock::HostClock() : kvm_(open(kKvmClock, O_RDONLY | O_CLOEXEC)) {}

std::optional<int64_t> HostClock::KvmOffsetNs(int64_t unix_ns) const {
  ptp_sys_offset readings = {};
  readings.n_samples = kReadings;
  if (!kvm_ || ioctl(kvm_.get(), PTP_SYS_OFFSET, &readings) != 0) return std::nullopt;
  const std::optional<int64_t> offset = HostClockOffsetNs(readings);
  if (offset.has_value() &&
      std::llabs(WallClockNs() + *offset - unix_ns) > kMaxHostClockDifferenceNs) {
    return std::nullopt;
  }
  return offset;
}

absl::Status HostClock::Set(int64_t unix_ns) const {
  if (unix_ns <= 0) return absl::OkStatus();
  if (const auto offset = KvmOffsetNs(unix_ns)) return Advance(*offset);
  return SetTo(unix_ns);
}

absl::Status HostClock::CatchUp(int64_t unix_ns) const {
  if (unix_ns <= 0) return absl::OkStatus();
  if (const auto offset = KvmOffsetNs(unix_ns)) return Advance(*offset);
  return WallClockNs() < unix_ns ? SetTo(unix_ns) : absl::OkStatus();
}

}  // namespace hearth::agent
