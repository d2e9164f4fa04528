// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>

#include "vmm/virtio/echo_device_fake.h"
#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {
namespace {

// A device and its driver, and a second device that takes over from them.
struct Fixture {
  absl::Status Restore(const MmioTransportState& state) {
    copy = std::make_unique<MmioDriverFake>(&copy_device, driver);
    return copy->transport().Restore(state);
  }
  absl::Status Restore() { return Restore(driver.transport().state()); }
  void AddChain(uint16_t queue = 0) {
    const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 16, true}}};
    REQUIRE(driver.queue(queue).Add(buffers));
  }

  EchoDevice device;
  MmioDriverFake driver{&device};
  EchoDevice copy_device;
  std::unique_ptr<MmioDriverFake> copy;
};

bool Echoes(MmioDriverFake& driver) {
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 16, true}}};
  if (!driver.queue(1).Add(buffers)) return false;
  driver.Notify(1);
  return driver.queue(1).TakeUsed().has_value();
}

TEST_CASE("mmio restore: a driver that was still negotiating goes on from each step") {
  Fixture f;
  const int steps_done = GENERATE(range(0, 9));
  CAPTURE(steps_done);
  const auto step = [](MmioDriverFake& driver, int index) {
    switch (index) {
      case 0:
        driver.Write(0x70, kStatusAcknowledge);
        return;
      case 1:
        driver.Write(0x70, kStatusAcknowledge | kStatusDriver);
        return;
      case 2:
        driver.Write(0x24, 1);
        driver.Write(0x20, 1);
        driver.Write(0x14, 1);
        return;
      case 3:
        driver.Write(0x24, 0);
        driver.Write(0x20, 0x5);
        return;
      case 4:
        driver.Write(0x70, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
        return;
      case 5:
        driver.SetUpQueue(0);
        driver.Write(0x30, 1);
        driver.Write(0x38, 4);
        return;
      case 6:
        driver.SetUpQueue(1);
        return;
      default:
        driver.Write(0x70, kRunningBits);
        driver.RunKicks();
        return;
    }
  };
  for (int i = 0; i < steps_done; ++i) step(f.driver, i);
  const MmioTransportState state = f.driver.transport().state();
  REQUIRE(f.Restore(state).ok());
  CHECK(f.copy->transport().state() == state);
  CHECK(f.copy->Read(0x70) == f.driver.Read(0x70));
  f.copy->transport().ResumeRestored();
  CHECK(f.copy->interrupts() == 0);
  CHECK(f.copy_device.activations == (steps_done == 8 ? 1 : 0));
  for (int i = steps_done; i < 8; ++i) step(*f.copy, i);
  CHECK(f.copy->Read(0x70) == kRunningBits);
  CHECK(Echoes(*f.copy));
  CHECK(f.copy->guest_errors() == 0);
}

TEST_CASE("mmio restore: a driver that runs goes on, the first one too") {
  Fixture f;
  f.driver.Start(GENERATE(false, true));
  for (int i = 0; i < 20; ++i) REQUIRE(Echoes(f.driver));
  REQUIRE(f.Restore().ok());
  CHECK(f.copy->transport().state() == f.driver.transport().state());
  f.copy->transport().ResumeRestored();
  for (int i = 0; i < 20; ++i) {
    REQUIRE(Echoes(*f.copy));
    REQUIRE(Echoes(f.driver));
  }
}

TEST_CASE("mmio restore: chains that wait are worked on without a notification, by the loop") {
  Fixture f;
  f.driver.Start();
  f.AddChain(0);
  f.AddChain(0);
  REQUIRE(f.Restore().ok());
  CHECK_FALSE(f.copy->queue(0).TakeUsed().has_value());
  f.copy->transport().ResumeRestored();
  CHECK(f.copy_device.processed[0] == 0);
  CHECK_FALSE(f.copy->queue(0).TakeUsed().has_value());
  f.copy->RunKicks();
  CHECK(f.copy->queue(0).TakeUsed().has_value());
  CHECK(f.copy->queue(0).TakeUsed().has_value());
  CHECK(f.copy->interrupts() == 1);
  CHECK(f.copy_device.processed[1] == 0);  // Nothing waits there.
}

TEST_CASE("mmio restore: an interrupt that was not acknowledged is raised again") {
  Fixture f;
  f.driver.Start();
  f.AddChain();
  f.driver.Notify(0);
  REQUIRE(f.driver.Read(0x60) == 1);
  REQUIRE(f.Restore().ok());
  CHECK(f.copy->interrupts() == 0);
  f.copy->transport().ResumeRestored();
  CHECK(f.copy->interrupts() == 1);
  CHECK(f.copy->Read(0x60) == 1);
  CHECK(f.copy->queue(0).TakeUsed().has_value());
  f.copy->Write(0x64, 1);
  CHECK(f.copy->Read(0x60) == 0);
}

TEST_CASE("mmio restore: an interrupt is owed for what was used since the driver last asked") {
  Fixture f;
  f.driver.Start(true);
  f.driver.queue(0).SetUsedEvent(1);  // Not for the first one, but for the second.
  f.AddChain();
  f.driver.Notify(0);
  REQUIRE(f.driver.interrupts() == 0);
  f.AddChain();
  REQUIRE(f.Restore().ok());
  f.copy->transport().ResumeRestored();
  f.copy->RunKicks();
  CHECK(f.copy->interrupts() == 1);
}

TEST_CASE("mmio restore: a device that had failed is as failed, and may be reset") {
  Fixture f;
  f.driver.Start();
  SECTION("by a broken queue") {
    f.driver.queue(0).SetAvailIndex(1000);
    f.driver.Notify(0);
    REQUIRE(f.Restore().ok());
    f.copy->transport().ResumeRestored();
    CHECK(f.copy->interrupts() == 1);  // Of the configuration change.
  }
  SECTION("by a queue that could not be") {
    f.driver.Write(0x70, 0);
    f.driver.NegotiateFeatures(false);
    f.driver.Write(0x30, 1);
    f.driver.Write(0x38, 16);
    f.driver.Write(0x44, 1);
    REQUIRE(f.Restore().ok());
  }
  CHECK(f.copy->transport().state() == f.driver.transport().state());
  CHECK(f.copy->needs_reset());
  f.copy->Notify(0);
  CHECK(f.copy_device.processed[0] == 0);
  const int resets = f.copy_device.activations;
  f.copy->Write(0x70, 0);
  CHECK(f.copy_device.resets == resets);
}

TEST_CASE("mmio restore: a driver that had given up stays so until it begins anew") {
  Fixture f;
  f.driver.Start();
  f.driver.Write(0x70, kRunningBits | kStatusFailed);
  REQUIRE(f.Restore().ok());
  CHECK(f.copy->Read(0x70) == (kRunningBits | kStatusFailed));
  CHECK(f.copy_device.activations == 0);
  f.copy->transport().ResumeRestored();
  f.copy->Write(0x70, 0);
  CHECK(f.copy_device.resets == 0);
}

TEST_CASE("mmio restore: the register value of each state leads back to it") {
  using S = DriverStatus;
  for (const S status : {S::kReset, S::kAcknowledged, S::kDriver, S::kFeaturesOk, S::kRunning}) {
    CHECK(StatusFromBits(StatusBits(status)) == status);
    CHECK(StatusFromBits(StatusBits(status) | kStatusFailed) == S::kFailed);
  }
  int legal = 0;
  for (int bits = 0; bits <= UINT8_MAX; ++bits) {
    legal += StatusFromBits(static_cast<uint8_t>(bits)).has_value() ? 1 : 0;
  }
  CHECK(legal == 10);
}

TEST_CASE("mmio restore: what no driver could have brought about is refused") {
  struct Case {
    const char* what;
    std::function<void(MmioTransportState&)> spoil;
  };
  using State = MmioTransportState;
  const std::vector<Case> cases = {
      {"a feature that is not offered", [](State& s) { s.driver_features |= 0x2; }},
      {"no VERSION_1", [](State& s) { s.driver_features = 0x5; }},
      {"an unknown interrupt", [](State& s) { s.interrupt_status = 4; }},
      {"a queue of size 0", [](State& s) { s.queues[0].size = 0; }},
      {"a size that is no power of two", [](State& s) { s.queues[0].size = 12; }},
      {"more than the device's maximum", [](State& s) { s.queues[0].size = 32; }},
      {"more than any maximum", [](State& s) { s.queues[0].size = 512; }},
      {"descriptors not aligned",
       [](State& s) { s.queues[0].descriptors = GuestAddress(0x10008); }},
      {"ring outside RAM",
       [](State& s) { s.queues[0].device_area = GuestAddress(MmioDriverFake::kRamBytes); }},
      {"ring at the end of the world",
       [](State& s) { s.queues[0].driver_area = GuestAddress(UINT64_MAX - 1); }},
      {"ring across the end of RAM",
       [](State& s) { s.queues[0].device_area = GuestAddress(MmioDriverFake::kRamBytes - 4); }},
      {"taken more than was there", [](State& s) { ++s.queues[0].next_avail; }},
      {"far ahead of the driver",
       [](State& s) {
         s.queues[0].next_avail = s.queues[0].next_used = s.queues[0].signalled_used = 9000;
       }},
      {"given back more than was taken", [](State& s) { ++s.queues[0].next_used; }},
      {"interrupted for more than was given", [](State& s) { ++s.queues[0].signalled_used; }},
      {"a broken queue without a reset", [](State& s) { s.queues[0].broken = true; }},
      {"a queue used that is not ready", [](State& s) { s.queues[0].ready = false; }},
      {"a third queue", [](State& s) { s.queues[2] = s.queues[0]; }},
      {"settings of a third queue", [](State& s) { s.queues[2].size = 4; }},
      {"a queue of a driver that has not begun", [](State& s) { s.status = DriverStatus::kReset; }},
      {"a queue before its features", [](State& s) { s.status = DriverStatus::kDriver; }},
      {"a queue used before DRIVER_OK", [](State& s) { s.status = DriverStatus::kFeaturesOk; }},
      {"failed from nowhere",
       [](State& s) {
         s.status = DriverStatus::kFailed;
         s.bits_when_failed = 5;
       }},
      {"failed from failed",
       [](State& s) {
         s.status = DriverStatus::kFailed;
         s.bits_when_failed = kStatusFailed;
       }},
  };
  Fixture f;
  f.driver.Start();
  REQUIRE(Echoes(f.driver));
  f.AddChain();
  f.driver.Notify(0);
  REQUIRE(f.Restore().ok());
  for (const Case& each : cases) {
    CAPTURE(each.what);
    MmioTransportState state = f.driver.transport().state();
    each.spoil(state);
    const absl::Status status = f.Restore(state);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  }
  CHECK(f.copy_device.activations == 1);  // Of the good one.
}

TEST_CASE("mmio restore: a blank state holds nothing that came before the driver") {
  Fixture f;
  MmioTransportState state;
  REQUIRE(f.Restore(state).ok());
  SECTION("features") { state.driver_features = 1; }
  SECTION("an interrupt") { state.interrupt_status = 1; }
  SECTION("a failure") { state.needs_reset = true; }
  SECTION("queue settings") { state.queues[1].size = 8; }
  CHECK_FALSE(f.Restore(state).ok());
}

TEST_CASE("mmio restore: a ring that jumped is refused, but not of a device that failed by it") {
  Fixture f;
  f.driver.Start();
  f.driver.queue(0).SetAvailIndex(17);
  CHECK_FALSE(f.Restore().ok());
  f.driver.Notify(0);
  REQUIRE(f.driver.needs_reset());
  CHECK(f.Restore().ok());
}

TEST_CASE(
    "mmio restore: a device that failed after more chains than its queue's size is restored") {
  Fixture f;
  f.driver.Start();
  // The driver posts another chain as soon as one is back, and at last a ring that jumps.
  int chains = 0;
  f.device.after_push = [&] {
    REQUIRE(f.driver.queue(0).TakeUsed().has_value());
    if (++chains < 20) return f.AddChain();
    f.driver.queue(0).SetAvailIndex(1000);
  };
  f.AddChain();
  f.driver.Notify(0);
  REQUIRE(f.driver.needs_reset());
  REQUIRE(chains == 20);
  CHECK(f.driver.Read(0x60) == 3);  // It is told of what came back, and of the failure.
  CHECK(f.Restore().ok());
}

}  // namespace
}  // namespace hearth::vmm
