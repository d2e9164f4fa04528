// SPDX-License-Identifier: Apache-2.0
// Guests whose second vCPU changes rings and requests while the devices read them.
#include <catch2/catch.hpp>

#include "tests/hostile-guest/hostile_machine.h"

namespace hearth::vmm::testing {
namespace {

// In the 256 bytes that are flipped: descriptors, available ring and the request's head.
constexpr uint32_t kAvailable = 0x80, kHead = 0xc0, kFlippedWords = 64;
constexpr uint16_t kOffers = 8;
constexpr uint32_t kRounds = 200;

// Brings the device up and offers it the same good request again and again; all of it many times,
// for it soon asks for a reset.
void OfferInRounds(HostileDriver& driver) {
  const uint32_t queue = driver.request_queue();
  const uint32_t flipped = Descriptors(queue);
  const size_t begin = driver.script().size();
  driver.Negotiate();
  for (uint32_t other = 0; other < driver.queue_count(); ++other) {
    if (other != queue) driver.SetUpQueue(other);
  }
  driver.SetUpQueue(queue).Set(kQueueReady, 0);
  driver.Set(kQueueDriverLow, flipped + kAvailable).Set(kQueueReady, 1).DriverOk();
  driver.DescribeGoodRequest(0, flipped + kHead);
  if (driver.target() == Target::kVsock) {
    // One bit makes the reset a connect to a port that is served; the answers have a place to go.
    driver.script().Write32(flipped + kHead + 20, kHostPort);
    driver.Describe(0, 0, {kBuffers + 0x4000, 4096, kWrite, 0}).Offer(0, {0, 0, 0, 0});
  }
  for (uint16_t index = 1; index <= kOffers; ++index) {
    driver.script().Write16(flipped + kAvailable + 2, index);
    driver.Notify(queue);
  }
  driver.script().Repeat(begin, kRounds);
}

TEST_CASE("hostile: descriptors, rings and headers that another vCPU flips while they are read") {
  REQUIRE_KVM();
  for (const Target target : kTargets) {
    INFO(Name(target));
    HostileDriver driver(target);
    driver.script().StartFlipping(Descriptors(driver.request_queue()),
                                  0x9e3779b9 + static_cast<uint32_t>(target), kFlippedWords);
    OfferInRounds(driver);
    driver.script().StopFlipping();
    driver.ProveHealthy();
    const auto yields = RunToEnd(driver.script(), 2);
    REQUIRE(yields.size() == 2);
    CHECK(yields[0] == 1);
    CHECK(yields[1] == 1);
  }
}

}  // namespace
}  // namespace hearth::vmm::testing
