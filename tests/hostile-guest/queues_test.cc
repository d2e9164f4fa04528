// SPDX-License-Identifier: Apache-2.0
// Guests whose virtqueues break the rules of VIRTIO 1.2, 2.7.
#include <catch2/catch.hpp>

#include "tests/hostile-guest/hostile_machine.h"

namespace hearth::vmm::testing {
namespace {

// A device's answer to a broken queue is to ask for a reset, and after that it serves again.
void RequireBreaksAndRecovers(HostileDriver& driver) {
  driver.AwaitNeedsReset().ProveHealthy();
  const auto yields = RunToEnd(driver.script());
  REQUIRE(yields.size() == 2);
  CHECK(yields[0] == 1);
  CHECK(yields[1] == 1);
}

// Whatever the device makes of it, it serves again after a reset.
void RequireRecovers(HostileDriver& driver) {
  driver.ProveHealthy();
  const auto yields = RunToEnd(driver.script());
  REQUIRE(!yields.empty());
  CHECK(yields.back() == 1);
}

TEST_CASE("hostile: queue sizes that are no power of two or over the maximum") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    for (uint32_t size : {0u, 3u, 0x101u, 0x8000u, 0xffffu, 0x10000u, 0x10008u, 0xffffffffu}) {
      INFO(Name(target) << " size " << size);
      HostileDriver driver(target);
      driver.BringUp(size).DescribeGoodRequest().Offer(driver.request_queue(), {0});
      RequireRecovers(driver);
    }
  }
}

TEST_CASE("hostile: rings in holes, in registers, behind the end of memory, wrapped, misaligned") {
  REQUIRE_KVM();
  constexpr uint64_t kAddresses[] = {0xc0000000,         kDevicePages,       kRamBytes,
                                     kRamBytes - 2,      kRamBytes - 0x10,   0xfec00000,
                                     0xfffffffffffffff0, 0xffffffffffffffff, 0x8000000000000000,
                                     0x100000000,        Descriptors(0) + 1, Descriptors(0) + 8,
                                     Available(0) + 1,   0xfffffffffffff000, 0x7ffffffffffffff0};
  for (Target target : {Target::kDisk, Target::kVsock}) {
    for (uint32_t reg : {kQueueDescriptorsLow, kQueueDriverLow, kQueueDeviceLow}) {
      for (uint64_t address : kAddresses) {
        INFO(Name(target) << " register " << reg << " address " << address);
        HostileDriver driver(target);
        driver.Negotiate();
        const uint32_t queue = driver.request_queue();
        driver.SetUpQueue(queue).Set(kQueueReady, 0);
        driver.Set(reg, static_cast<uint32_t>(address));
        driver.Set(reg + 4, static_cast<uint32_t>(address >> 32));
        driver.Set(kQueueReady, 1).DriverOk().DescribeGoodRequest().Offer(queue, {0});
        RequireRecovers(driver);
      }
    }
  }
}

TEST_CASE("hostile: rings that are moved, resized and made ready again while the device runs") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    const uint32_t queue = driver.request_queue();
    driver.BringUp().DescribeGoodRequest();
    driver.Set(kQueueSelect, queue);
    for (uint32_t reg : {kQueueDescriptorsLow, kQueueDriverLow, kQueueDeviceLow, kQueueSize,
                         kQueueDescriptorsHigh, kQueueDriverHigh, kQueueDeviceHigh, kQueueReady}) {
      driver.Set(reg, 0xfffffff0).Offer(queue, {0}).Set(reg, 0).Notify(queue).Set(reg, 1);
      driver.Notify(queue);
    }
    for (uint32_t select : {3u, 0xffffu, 0xffffffffu}) {
      driver.Set(kQueueSelect, select).SetUpQueue(select & 3).Notify(select);
    }
    RequireRecovers(driver);
  }
}

TEST_CASE("hostile: all rings on top of each other") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    const uint32_t queue = driver.request_queue();
    driver.Negotiate().SetUpQueue(queue).Set(kQueueReady, 0);
    driver.Set(kQueueDriverLow, Descriptors(queue)).Set(kQueueDeviceLow, Descriptors(queue));
    driver.Set(kQueueReady, 1).DriverOk();
    driver.script().FillRandom(Descriptors(queue), 77, 64);
    for (uint16_t index = 1; index < 9; ++index) {
      driver.script().Write16(Descriptors(queue) + 2, index);
      driver.Notify(queue);
    }
    RequireRecovers(driver);
  }
}

TEST_CASE("hostile: chains that loop or leave the table break the queue") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    const uint32_t queue = HostileDriver(target).request_queue();
    for (int kind = 0; kind < 6; ++kind) {
      INFO(Name(target) << " kind " << kind);
      HostileDriver driver(target);
      driver.BringUp();
      const uint16_t direction = target == Target::kRng ? kWrite : 0;
      const auto link = [&](uint32_t index, uint16_t next) {
        driver.Describe(queue, index,
                        {kBuffers, 64, static_cast<uint16_t>(kNext | direction), next});
      };
      uint16_t head = 0;
      if (kind == 0) link(0, 0);              // To itself.
      if (kind == 1) link(0, 1), link(1, 0);  // Two in a circle.
      if (kind == 2) {                        // All of them in a circle.
        for (uint16_t i = 0; i < 8; ++i) link(i, static_cast<uint16_t>((i + 1) % 8));
      }
      if (kind == 3) link(0, 8);  // One past the table.
      if (kind == 4) link(0, 0xffff);
      if (kind == 5) head = 8;  // A head past the table.
      driver.Offer(queue, {head});
      RequireBreaksAndRecovers(driver);
    }
  }
}

TEST_CASE("hostile: an available index that runs ahead breaks the queue") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    for (uint16_t index : {uint16_t{9}, uint16_t{0x7fff}, uint16_t{0x8000}, uint16_t{0xffff}}) {
      INFO(Name(target) << " index " << index);
      HostileDriver driver(target);
      driver.BringUp().DescribeGoodRequest().Offer(driver.request_queue(), {0}, index);
      RequireBreaksAndRecovers(driver);
    }
  }
}

TEST_CASE("hostile: descriptors at addresses that are no memory, or of impossible lengths") {
  REQUIRE_KVM();
  constexpr Descriptor kBad[] = {
      {0xc0000000, 64, 0, 0},         {kDevicePages, 64, 0, 0},
      {kRamBytes, 64, 0, 0},          {kRamBytes - 32, 64, 0, 0},
      {0xffffffffffffffff, 64, 0, 0}, {0xffffffffffffffc0, 64, 0, 0},
      {0x8000000000000000, 64, 0, 0}, {kBuffers, 0xffffffff, 0, 0},
      {kBuffers, 0x80000000, 0, 0},   {0, 0xffffffff, 0, 0},
      {kBuffers, 64, kIndirect, 0},   {kBuffers, 16, kIndirect | kWrite, 0},
      {kBuffers, 64, 0xfff8, 0},      {kBuffers, 0, 0, 0},
      {0xfec00000, 64, 0, 0}};
  for (Target target : kTargets) {
    const uint32_t queue = HostileDriver(target).request_queue();
    for (size_t i = 0; i < std::size(kBad); ++i) {
      for (uint16_t write : {uint16_t{0}, kWrite}) {
        INFO(Name(target) << " descriptor " << i << " write " << write);
        HostileDriver driver(target);
        Descriptor bad = kBad[i];
        bad.flags = static_cast<uint16_t>(bad.flags | write);
        driver.BringUp().Describe(queue, 0, bad).Offer(queue, {0});
        RequireRecovers(driver);
      }
    }
  }
}

TEST_CASE("hostile: a readable descriptor behind a writable one") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    const uint32_t queue = driver.request_queue();
    driver.BringUp();
    driver.Describe(queue, 0, {kBuffers, 64, kNext | kWrite, 1});
    driver.Describe(queue, 1, {kBuffers, 64, kNext, 2});
    driver.Describe(queue, 2, {kBuffers, 1, kWrite, 0}).Offer(queue, {0});
    RequireBreaksAndRecovers(driver);
  }
}

TEST_CASE("hostile: buffers that lie over the rings they come from") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    const uint32_t queue = HostileDriver(target).request_queue();
    for (uint32_t over : {Descriptors(queue), Available(queue), Used(queue)}) {
      INFO(Name(target) << " over " << over);
      HostileDriver driver(target);
      driver.BringUp();
      driver.Describe(queue, 0, {over, 16, kNext, 1});
      driver.Describe(queue, 1, {over, 4096, kNext | kWrite, 2});
      driver.Describe(queue, 2, {over + 2, 1, kWrite, 0});
      driver.Describe(queue, 3, {over, 4096, kWrite, 0});
      driver.Offer(queue, {0, 3, 0, 3, 0, 3, 0, 3});
      RequireRecovers(driver);
    }
  }
}

TEST_CASE("hostile: random rings, notified again and again") {
  REQUIRE_KVM();
  for (Target target : kTargets) {
    for (uint32_t seed = 1; seed <= 8; ++seed) {
      INFO(Name(target) << " seed " << seed);
      HostileDriver driver(target);
      for (uint32_t round = 0; round < 12; ++round) {
        driver.BringUp();
        const uint32_t random = seed * 1000003 + round * 7919;
        for (uint32_t queue = 0; queue < driver.queue_count(); ++queue) {
          // Addresses within memory half of the time: the high words are cleared there.
          driver.script().FillRandom(Descriptors(queue), random | 1, 32);
          if (round % 2 == 0) {
            for (uint32_t i = 0; i < 8; ++i) {
              const uint32_t at = Descriptors(queue) + i * 16;
              driver.Describe(queue, i,
                              {kBuffers + (random >> i) % 0x1000, (random >> (i / 2)) % 9000,
                               static_cast<uint16_t>((random >> i) & 3),
                               static_cast<uint16_t>((random >> (i * 2)) & 7)});
              driver.script().Write8(at + 14, i + 1);
            }
          }
          driver.script().FillRandom(kBuffers, random ^ 0x5a5a5a5a, 64);
          driver.Offer(queue, {0, 1, 2, 3, 4, 5, 6, 7});
        }
      }
      RequireRecovers(driver);
    }
  }
}

}  // namespace
}  // namespace hearth::vmm::testing
