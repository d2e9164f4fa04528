// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/tsc_rate.h"

#include <time.h>
#include <x86intrin.h>

#include <algorithm>
#include <catch2/catch.hpp>

namespace hearth::libvirt {
namespace {

int64_t RawNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

TEST_CASE("tsc: its rate, measured again and again, is that of all the time it took") {
  const uint64_t first_tsc = __rdtsc();
  const int64_t first_ns = RawNs();
  uint32_t least = MeasureTscKhz();
  uint32_t most = least;
  for (int i = 0; i < 20; ++i) {
    const uint32_t khz = MeasureTscKhz();
    least = std::min(least, khz);
    most = std::max(most, khz);
  }
  const double khz =
      static_cast<double>(__rdtsc() - first_tsc) * 1e6 / static_cast<double>(RawNs() - first_ns);
  CAPTURE(least, most, khz);
  // Linux sets clocks right that are wrong by 500 millionths.
  CHECK(least > khz * (1 - 500e-6));
  CHECK(most < khz * (1 + 500e-6));
}

}  // namespace
}  // namespace hearth::libvirt
