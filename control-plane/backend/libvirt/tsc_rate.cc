// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/tsc_rate.h"

#include <time.h>
#include <x86intrin.h>

#include <cmath>
#include <limits>

namespace hearth::libvirt {
namespace {

constexpr timespec kInterval = {.tv_sec = 0, .tv_nsec = 20'000'000};
constexpr int kTries = 16;

struct Moment {
  uint64_t tsc;
  int64_t ns;
};

// Both clocks at one moment: of several readings the one that was interrupted least.
Moment Now() {
  Moment best = {};
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (int i = 0; i < kTries; ++i) {
    timespec now;
    const uint64_t before = __rdtsc();
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    const uint64_t took = __rdtsc() - before;
    if (took >= least) continue;
    least = took;
    best = {before + took / 2, int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec};
  }
  return best;
}

}  // namespace

uint32_t MeasureTscKhz() {
  const Moment begin = Now();
  nanosleep(&kInterval, nullptr);
  const Moment end = Now();
  const double ns = static_cast<double>(end.ns - begin.ns);
  return static_cast<uint32_t>(std::lround(static_cast<double>(end.tsc - begin.tsc) * 1e6 / ns));
}

}  // namespace hearth::libvirt
