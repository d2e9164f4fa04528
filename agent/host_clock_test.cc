// SPDX-License-Identifier: Apache-2.0
#include "agent/host_clock.h"

#include <catch2/catch.hpp>

namespace hearth::agent {
namespace {

ptp_clock_time At(int64_t ns) {
  ptp_clock_time time = {};
  time.sec = ns / 1'000'000'000;
  time.nsec = static_cast<uint32_t>(ns % 1'000'000'000);
  return time;
}

TEST_CASE("host clock: of its readings the one that took least counts, from the middle") {
  ptp_sys_offset readings = {};
  CHECK_FALSE(HostClockOffsetNs(readings).has_value());
  readings.n_samples = 3;
  readings.ts[0] = At(1'000'000'000);
  readings.ts[1] = At(7'000'000'000);
  readings.ts[2] = At(1'400'000'000);  // 400 ms.
  readings.ts[3] = At(7'001'000'040);
  readings.ts[4] = At(1'400'000'100);  // 100 ns.
  readings.ts[5] = At(9'000'000'000);
  readings.ts[6] = At(1'400'000'300);
  CHECK(HostClockOffsetNs(readings) == 5'600'999'990);
  // The host's may be behind.
  readings.ts[3] = At(400'000'050);
  CHECK(HostClockOffsetNs(readings) == -1'000'000'000);
}

TEST_CASE("host clock: a reading between which this machine's clock went back counts for nothing") {
  ptp_sys_offset readings = {};
  readings.n_samples = 1;
  readings.ts[0] = At(5'000'000'000);
  readings.ts[1] = At(7'000'000'000);
  readings.ts[2] = At(4'000'000'000);
  CHECK_FALSE(HostClockOffsetNs(readings).has_value());
  // No more than fit are looked at.
  readings.n_samples = PTP_MAX_SAMPLES + 1;
  CHECK(HostClockOffsetNs(readings).has_value());
}

TEST_CASE("host clock: without a time nothing is set") {
  CHECK(HostClock().Set(0).ok());
  CHECK(HostClock().Set(-1).ok());
  CHECK(HostClock().CatchUp(0).ok());
}

}  // namespace
}  // namespace hearth::agent
