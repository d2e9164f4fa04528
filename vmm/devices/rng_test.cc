// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/rng.h"

#include <array>
#include <catch2/catch.hpp>

#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {
namespace {

constexpr GuestAddress kData = MmioDriverFake::kBuffers;

TEST_CASE("rng: a request is filled with bytes that are not all the same") {
  Rng rng;
  MmioDriverFake driver(&rng);
  driver.Start(true);
  const std::array<VirtqueueFake::Buffer, 2> buffers = {
      {{kData, 64, true}, {GuestAddress(kData.value() + 0x1000), 64, true}}};
  REQUIRE(driver.queue(0).Add(buffers));
  driver.Notify(0);
  CHECK(driver.queue(0).TakeUsed()->length == 128);
  std::array<uint8_t, 64> first{};
  std::array<uint8_t, 64> second{};
  REQUIRE(driver.memory().Read(kData, first));
  REQUIRE(driver.memory().Read(GuestAddress(kData.value() + 0x1000), second));
  CHECK(first != second);
  CHECK(first != std::array<uint8_t, 64>{});
}

TEST_CASE("rng: a huge request gets the limit and no more") {
  Rng rng;
  MmioDriverFake driver(&rng);
  driver.Start();
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 8 << 20, true}}};
  REQUIRE(driver.queue(0).Add(buffers));
  driver.Notify(0);
  CHECK(driver.queue(0).TakeUsed()->length == kRngMaxRequestBytes);
  CHECK(driver.memory().ReadValue<uint64_t>(GuestAddress(kData.value() + kRngMaxRequestBytes)) ==
        0);
}

TEST_CASE("rng: a request with nothing to write to needs a reset") {
  Rng rng;
  MmioDriverFake driver(&rng);
  driver.Start();
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, false}}};
  REQUIRE(driver.queue(0).Add(buffers));
  driver.Notify(0);
  CHECK(driver.needs_reset());
}

TEST_CASE("rng: a full queue is worked off") {
  Rng rng;
  MmioDriverFake driver(&rng);
  driver.Start();
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  int added = 0;
  while (driver.queue(0).Add(buffers)) ++added;
  driver.Notify(0);
  for (int i = 0; i < added; ++i) REQUIRE(driver.queue(0).TakeUsed()->length == 16);
}

}  // namespace
}  // namespace hearth::vmm
