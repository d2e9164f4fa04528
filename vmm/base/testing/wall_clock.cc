// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/testing/wall_clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"

namespace hearth::testing {
namespace {

std::atomic<int64_t> ahead_s{0};

}  // namespace

WallClock::~WallClock() {
  if (ahead_s != 0) Step(-absl::Seconds(ahead_s.load()));
}

void WallClock::Step(absl::Duration by) {
  const absl::Time before = absl::Now();
  ahead_s += absl::ToInt64Seconds(by);
  // In between two looks at the clock, which may be seconds apart, absl counts processor cycles.
  while (absl::AbsDuration(absl::Now() - before) < absl::AbsDuration(by) / 2) {
    std::this_thread::yield();
  }
}

}  // namespace hearth::testing

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += hearth::testing::ahead_s;
  return static_cast<int>(result);
}
