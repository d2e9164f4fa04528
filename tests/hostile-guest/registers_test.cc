// SPDX-License-Identifier: Apache-2.0
// Guests that use the devices' registers as no driver should.
#include <catch2/catch.hpp>

#include "tests/hostile-guest/hostile_machine.h"

namespace hearth::vmm::testing {
namespace {

constexpr uint32_t kValues[] = {0, 1, 2, 0x80, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff};

// Every test ends with a proof that the device still serves.
void RequireHealthy(HostileDriver& driver) {
  driver.ProveHealthy();
  const auto yields = RunToEnd(driver.script());
  REQUIRE(!yields.empty());
  CHECK(yields.back() == 1);
}

TEST_CASE("hostile: the devices are where they should be and serve a proper driver") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    for (uint32_t reg : {kMagic, kVersion, kDeviceId}) driver.script().Read32(driver.At(reg));
    driver.ProveHealthy();
    const auto yields = RunToEnd(driver.script());
    REQUIRE(yields.size() == 4);
    CHECK(yields[0] == 0x74726976);
    CHECK(yields[1] == 2);
    CHECK(yields[2] == (target == Target::kRng ? 4 : target == Target::kVsock ? 19 : 2));
    CHECK(yields[3] == 1);
  }
}

TEST_CASE("hostile: reads of every width at every offset, aligned or not, across the page's end") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    driver.BringUp();
    for (uint32_t offset = 0; offset < 0x200; ++offset) {
      driver.script().Read8(driver.At(offset));
      driver.script().Read16(driver.At(offset));
      driver.script().Read32(driver.At(offset));
    }
    for (uint32_t offset = 0xff8; offset < 0x1000; ++offset) {
      driver.script().Read16(driver.At(offset));
      driver.script().Read32(driver.At(offset));
    }
    RequireHealthy(driver);
  }
}

TEST_CASE("hostile: writes of every width and of telling values to every register") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    for (uint32_t value : kValues) {
      INFO(Name(target) << " value " << value);
      HostileDriver driver(target);
      driver.BringUp();
      for (uint32_t offset = 0; offset < 0x140; offset += 4) {
        driver.script().Write32(driver.At(offset), value);
        driver.script().Write8(driver.At(offset), value);
        driver.script().Write16(driver.At(offset + 1), value);
        driver.script().Write32(driver.At(offset + 2), value);
        driver.script().Write64(driver.At(offset), value);
      }
      driver.script().Write32(driver.At(0xffe), value);
      RequireHealthy(driver);
    }
  }
}

TEST_CASE("hostile: every status byte after every other") {
  REQUIRE_KVM();
  HostileDriver driver(Target::kRng);
  for (uint32_t first : {0u, 1u, 2u, 3u, 4u, 8u, 11u, 15u, 64u, 128u, 255u}) {
    for (uint32_t second = 0; second < 256; second += 5) {
      driver.Set(kStatus, 0).Set(kStatus, first).Set(kStatus, second);
    }
  }
  RequireHealthy(driver);
}

TEST_CASE("hostile: features that were not offered are not accepted") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    driver.Set(kStatus, 0).Set(kStatus, 1).Set(kStatus, 3);
    for (uint32_t select : {0u, 1u, 2u, 0xffffffffu}) {
      driver.Set(kDriverFeaturesSelect, select).Set(kDriverFeatures, 0xffffffff);
    }
    driver.Set(kStatus, 11);
    driver.script().Read32(driver.At(kStatus));
    driver.ProveHealthy();
    const auto yields = RunToEnd(driver.script());
    REQUIRE(yields.size() == 2);
    CHECK((yields[0] & kStatusFeaturesOk) == 0);
    CHECK(yields[1] == 1);
  }
}

TEST_CASE("hostile: negotiating again, or going back, while the device runs") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    driver.BringUp();
    driver.Set(kDriverFeaturesSelect, 1).Set(kDriverFeatures, 0).Set(kDriverFeatures, 1);
    driver.Set(kStatus, 11).Set(kStatus, 3).Set(kStatus, 15).Set(kStatus, 15);
    driver.DriverOk().Notify(driver.request_queue());
    RequireHealthy(driver);
  }
}

TEST_CASE("hostile: a flood of resets in the middle of requests") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    const size_t again = driver.script().size();
    driver.BringUp().DescribeGoodRequest().Offer(driver.request_queue(), {0});
    driver.Set(kStatus, 0);
    driver.script().Repeat(again, 100);
    RequireHealthy(driver);
  }
}

TEST_CASE("hostile: a flood of notifications, for queues that exist and for others") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    driver.BringUp();
    const size_t again = driver.script().size();
    for (uint32_t queue : {0u, 1u, 2u, 3u, 0xffffu, 0x10000u, 0xffffffffu}) driver.Notify(queue);
    driver.script().Write8(driver.At(kQueueNotify), 0).Write16(driver.At(kQueueNotify), 1);
    driver.script().Repeat(again, 2000);
    RequireHealthy(driver);
  }
}

TEST_CASE("hostile: random accesses to a device's page") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    for (uint32_t seed = 1; seed <= 6; ++seed) {
      INFO(Name(target) << " seed " << seed);
      HostileDriver driver(target);
      driver.BringUp();
      driver.script().FuzzPage(driver.At(0), seed * 0x9e3779b9, 5000);
      RequireHealthy(driver);
    }
  }
}

TEST_CASE(
    "hostile: random accesses to the pages around the devices and the interrupt controllers") {
  REQUIRE_KVM();
  HostileDriver driver(Target::kDisk);
  for (uint32_t page :
       {0xcffff000u, 0xd0004000u, 0xfec01000u, 0xc0000000u, 0xfffff000u, kRamBytes + 0u}) {
    driver.script().FuzzPage(page, page | 1, 500);
  }
  RequireHealthy(driver);
}

TEST_CASE("hostile: every port read and written with every width, but for the reset") {
  REQUIRE_KVM();
  PokeScript script;
  for (uint32_t port = 0; port < 0x500; port += 3) {
    if (port >= 0x60 && port <= 0x64) continue;
    script.In8(port).In16(port).In32(port).Out8(port, 0xa5).Out16(port, 0x5aa5).Out32(port, ~0u);
  }
  for (uint32_t port : {0xcf8u, 0xcfcu, 0xfffdu, 0xfffeu, 0xffffu}) {
    script.In8(port).In32(port).Out8(port, 1).Out32(port, ~0u);
  }
  for (uint32_t value = 0; value < 256; ++value) {
    if (value != 0xfe) script.Out8(0x64, value).Out8(0x60, value);
  }
  RunToEnd(script);
}

TEST_CASE("hostile: a serial port flooded and reconfigured without end") {
  REQUIRE_KVM();
  PokeScript script;
  for (uint32_t reg = 0; reg < 8; ++reg) {
    for (uint32_t value : {0u, 1u, 0x80u, 0xffu, 0x0fu}) {
      script.Out8(0x3f8 + reg, value).In8(0x3f8 + reg).Out16(0x3f8 + reg, value).In32(0x3f8 + reg);
    }
  }
  script.Out8(0x3fb, 3).Out8(0x3f9, 0x0f);
  const size_t again = script.size();
  script.Out8(0x3f8, 'x').Out32(0x3f8, 0x0a0a0a0a);
  script.Repeat(again, 20'000);
  RunToEnd(script);
}

}  // namespace
}  // namespace hearth::vmm::testing
