// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/mmio_transport.h"

#include <catch2/catch.hpp>

#include "vmm/virtio/echo_device_fake.h"
#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {
namespace {

TEST_CASE("mmio: the identification registers are those of virtio-mmio version 2") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  CHECK(driver.Read(0x00) == 0x74726976);
  CHECK(driver.Read(0x04) == 2);
  CHECK(driver.Read(0x08) == 42);
  CHECK(driver.Read(0x34) == 16);
  driver.Write(0x30, 1);
  CHECK(driver.Read(0x34) == 8);
  driver.Write(0x30, 2);
  CHECK(driver.Read(0x34) == 0);
  CHECK(driver.Read(0xb0) == UINT32_MAX);
  CHECK(driver.Read(0xfc) == 0);
  CHECK(driver.Read(0x14c) == 0);
}

TEST_CASE("mmio: the configuration space may be read in any width, beyond its end are zeros") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  CHECK(driver.Read(0x100) == 0x04030201);
  std::array<uint8_t, 8> wide{};
  driver.transport().Read(0x102, wide);
  CHECK(wide == std::array<uint8_t, 8>{3, 4, 0, 0, 0, 0, 0, 0});
  std::array<uint8_t, 1> byte{};
  driver.transport().Read(0xfff, byte);
  CHECK(byte[0] == 0);
}

TEST_CASE("mmio: a driver gets through to DRIVER_OK and its chains come back") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Start();
  CHECK(driver.Read(0x70) == kRunningBits);
  CHECK(device.activations == 1);
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 16, true}}};
  REQUIRE(driver.queue(1).Add(buffers));
  driver.Notify(1);
  CHECK(driver.queue(1).TakeUsed().has_value());
  CHECK(driver.interrupts() == 1);
  CHECK(driver.Read(0x60) == 1);
  driver.Write(0x64, 1);
  CHECK(driver.Read(0x60) == 0);
  CHECK(driver.guest_errors() == 0);
}

TEST_CASE("mmio: a notification by register reaches the device through the kick") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Start();
  const int before = device.processed[1];
  driver.Write(0x50, 1);
  CHECK(device.processed[1] == before);
  driver.RunKicks();
  CHECK(device.processed[1] == before + 1);
  driver.Write(0x50, 7);  // No such queue.
  driver.RunKicks();
}

TEST_CASE("mmio: the status goes forward one step at a time") {
  using S = DriverStatus;
  CHECK(NextDriverStatus(S::kReset, 1) == S::kAcknowledged);
  CHECK(NextDriverStatus(S::kAcknowledged, 3) == S::kDriver);
  CHECK(NextDriverStatus(S::kDriver, 11) == S::kFeaturesOk);
  CHECK(NextDriverStatus(S::kFeaturesOk, 15) == S::kRunning);
  CHECK(NextDriverStatus(S::kRunning, 15 | kStatusNeedsReset) == S::kRunning);
  CHECK(NextDriverStatus(S::kRunning, 0) == S::kReset);
  CHECK(NextDriverStatus(S::kRunning, 15 | kStatusFailed) == S::kFailed);
  CHECK(NextDriverStatus(S::kFailed, 0) == S::kReset);
  CHECK_FALSE(NextDriverStatus(S::kReset, 15).has_value());
  CHECK_FALSE(NextDriverStatus(S::kReset, 3).has_value());
  CHECK_FALSE(NextDriverStatus(S::kDriver, 7).has_value());
  CHECK_FALSE(NextDriverStatus(S::kRunning, 11).has_value());
  CHECK_FALSE(NextDriverStatus(S::kFailed, 1).has_value());
  CHECK_FALSE(NextDriverStatus(S::kDriver, 3 | 32).has_value());
}

TEST_CASE("mmio: features that were not offered are refused") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Write(0x70, 1);
  driver.Write(0x70, 3);
  SECTION("an unknown one") {
    driver.Write(0x24, 1);
    driver.Write(0x20, 1);
    driver.Write(0x24, 0);
    driver.Write(0x20, 0x2);
  }
  SECTION("VERSION_1 missing") {
    driver.Write(0x24, 0);
    driver.Write(0x20, 0x5);
  }
  driver.Write(0x70, 11);
  CHECK(driver.Read(0x70) == 3);
  CHECK(driver.guest_errors() == 1);
}

TEST_CASE("mmio: features cannot be negotiated twice") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Start();
  driver.Write(0x24, 0);
  driver.Write(0x20, 0);
  CHECK(driver.transport().state().driver_features == (uint64_t{1} << 32 | 0x5));
  CHECK(driver.guest_errors() == 1);
}

TEST_CASE("mmio: a queue that is ready keeps its size and addresses") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.NegotiateFeatures(false);
  driver.SetUpQueue(0);
  const VirtqueueState before = driver.transport().state().queues[0];
  REQUIRE(before.ready);
  for (const uint64_t offset : {0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4}) {
    driver.Write(offset, 0x4000);
  }
  driver.Write(0x44, 1);
  const VirtqueueState after = driver.transport().state().queues[0];
  CHECK(after.size == before.size);
  CHECK(after.descriptors == before.descriptors);
  CHECK(after.driver_area == before.driver_area);
  CHECK(after.device_area == before.device_area);
  CHECK(driver.guest_errors() == 8);
}

TEST_CASE("mmio: a queue cannot be set up before FEATURES_OK nor once the driver runs") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.SetUpQueue(0);
  CHECK(driver.Read(0x44) == 0);
  driver.Start();
  driver.Write(0x30, 0);
  driver.Write(0x44, 0);
  CHECK(driver.Read(0x44) == 0);
  driver.SetUpQueue(0);
  CHECK(driver.Read(0x44) == 0);
  driver.Notify(0);  // Nothing there to work on.
}

TEST_CASE("mmio: impossible queue settings make the device need a reset") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.NegotiateFeatures(false);
  driver.Write(0x30, 1);
  SECTION("more than the maximum") { driver.Write(0x38, 16); }
  SECTION("size 0") { driver.Write(0x38, 0); }
  SECTION("a size beyond 16 bits") { driver.Write(0x38, 0x10008); }
  SECTION("an address outside RAM") {
    driver.Write(0x38, 8);
    driver.Write(0x84, 0xffffffff);
  }
  driver.Write(0x44, 1);
  CHECK(driver.needs_reset());
  CHECK(driver.Read(0x44) == 0);
  driver.Write(0x70, kRunningBits);
  driver.Notify(1);
  CHECK(device.processed[1] == 0);
  driver.Start();
  CHECK_FALSE(driver.needs_reset());
}

TEST_CASE("mmio: a broken queue stops the device until it is reset, and says so") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Start();
  driver.queue(0).SetAvailIndex(1000);
  driver.Notify(0);
  CHECK(driver.needs_reset());
  CHECK(driver.Read(0x60) == 2);
  CHECK(driver.interrupts() == 1);
  const int processed = device.processed[1];
  driver.Notify(1);
  CHECK(device.processed[1] == processed);
  driver.Write(0x70, 0);
  CHECK(driver.Read(0x70) == 0);
  CHECK(device.resets == 1);
  driver.queue(0).SetAvailIndex(0);
  driver.Start();
  CHECK(driver.Read(0x70) == kRunningBits);
  CHECK(device.activations == 2);
}

TEST_CASE("mmio: a driver that gives up stops the device") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  driver.Start();
  driver.Write(0x70, kRunningBits | kStatusFailed);
  CHECK(driver.Read(0x70) == (kRunningBits | kStatusFailed));
  CHECK(device.resets == 1);
  driver.Notify(0);
  driver.Write(0x70, 0);
  CHECK(device.resets == 1);
}

TEST_CASE("mmio: accesses of another width than 32 bits, or unaligned, do nothing") {
  EchoDevice device;
  MmioDriverFake driver(&device);
  std::array<uint8_t, 2> two = {0xff, 0xff};
  driver.transport().Read(0x00, two);
  CHECK(two == std::array<uint8_t, 2>{0, 0});
  std::array<uint8_t, 4> four = {0xff, 0xff, 0xff, 0xff};
  driver.transport().Read(0x02, four);
  CHECK(four == std::array<uint8_t, 4>{0, 0, 0, 0});
  const std::array<uint8_t, 1> one = {1};
  driver.transport().Write(0x70, one);
  driver.transport().Write(0x6e, four);
  driver.transport().Write(0x100, four);
  CHECK(driver.Read(0x70) == 0);
  CHECK(driver.guest_errors() == 3);
}

TEST_CASE("guest errors: all are counted, few are logged") {
  int lines = 0;
  GuestErrors errors([&lines](std::string_view line) {
    CHECK(line.find("echo: nonsense") != std::string_view::npos);
    ++lines;
  });
  for (int i = 0; i < 10000; ++i) errors.Report("echo", "nonsense");
  CHECK(errors.count() == 10000);
  CHECK(lines >= 1);
  CHECK(lines < 100);
}

}  // namespace
}  // namespace hearth::vmm
