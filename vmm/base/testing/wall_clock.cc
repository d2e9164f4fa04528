// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/testing/wall_clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace hearth::testing {
namespace {

std::atomic<int64_t> ahead_s{0};

}  // namespace

WallClock::~WallClock() { ahead_s = 0; }

void WallClock::Step(absl::Duration by) { ahead_s += absl::ToInt64Seconds(by); }

}  // namespace hearth::testing

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += hearth::testing::ahead_s;
  return static_cast<int>(result);
}
