// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/saved_devices.h"

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>

#include "vmm/devices/devices_fake.h"

namespace hearth::vmm {
namespace {

using Code = absl::StatusCode;
using Saved = v1::SavedDevices;

// Through bytes, as a snapshot has them.
Saved Stored(const Saved& saved) {
  Saved parsed;
  REQUIRE(parsed.ParseFromString(saved.SerializeAsString()));
  return parsed;
}

std::unique_ptr<DevicesFake> CopyOf(const DevicesFake& devices,
                                    const DevicesFake::Options& options = {}) {
  return std::make_unique<DevicesFake>(options, devices);
}

void StartAll(DevicesFake& devices) {
  for (size_t i = 0; i < DevicesFake::kCount; ++i) devices.driver(i).Start(i % 2 == 0);
}

void Out(Serial& serial, uint64_t port, uint8_t value) { serial.Write(port, {&value, 1}); }
uint8_t In(Serial& serial, uint64_t port) {
  std::array<uint8_t, 1> value{};
  serial.Read(port, value);
  return value[0];
}

void AddRngRequest(DevicesFake& devices) {
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 64, true}}};
  REQUIRE(devices.driver(DevicesFake::kEntropy).queue(0).Add(buffers));
}

TEST_CASE("saved devices: blank ones and ones that run come back as they were") {
  DevicesFake devices;
  const bool running = GENERATE(false, true);
  if (running) StartAll(devices);
  const Saved saved = devices.Save();
  auto copy = CopyOf(devices);
  REQUIRE(copy->Restore(Stored(saved)).ok());
  CHECK(copy->Save().SerializeAsString() == saved.SerializeAsString());
  for (size_t i = 0; i < DevicesFake::kCount; ++i) {
    CHECK(copy->driver(i).Read(0x70) == (running ? kRunningBits : 0));
  }
  if (!running) StartAll(*copy);
  AddRngRequest(*copy);
  copy->driver(DevicesFake::kEntropy).Notify(0);
  CHECK(copy->driver(DevicesFake::kEntropy).queue(0).TakeUsed().has_value());
}

TEST_CASE("saved devices: requests that wait are done, used ones are told of again") {
  DevicesFake devices;
  StartAll(devices);
  MmioDriverFake& driver = devices.driver(DevicesFake::kEntropy);
  AddRngRequest(devices);
  driver.Notify(0);  // Used, its interrupt not acknowledged.
  AddRngRequest(devices);
  auto copy = CopyOf(devices);
  REQUIRE(copy->Restore(Stored(devices.Save())).ok());
  MmioDriverFake& restored = copy->driver(DevicesFake::kEntropy);
  CHECK(restored.Read(0x60) == 1);
  CHECK(restored.interrupts() == 1);
  CHECK(restored.queue(0).TakeUsed().has_value());
  CHECK_FALSE(restored.queue(0).TakeUsed().has_value());
  restored.RunKicks();
  CHECK(restored.queue(0).TakeUsed().has_value());
}

TEST_CASE("saved devices: the serial port keeps its registers, its input and its interrupts") {
  DevicesFake devices;
  Serial& serial = devices.serial();
  Out(serial, 3, 0x80);
  Out(serial, 0, 0x34);
  Out(serial, 1, 0x12);
  Out(serial, 3, 0x03);
  Out(serial, 2, 0x01);
  Out(serial, 4, 0x0b);
  Out(serial, 7, 0x5a);
  Out(serial, 1, 0x07);
  std::string input(kSerialInputFifoBytes, 'i');
  serial.Receive({reinterpret_cast<const uint8_t*>("abc"), 3});
  for (int i = 0; i < 2; ++i) In(serial, 0);  // So that the FIFO wraps.
  serial.Receive({reinterpret_cast<const uint8_t*>(input.data()), input.size()});
  auto copy = CopyOf(devices);
  REQUIRE(copy->Restore(Stored(devices.Save())).ok());
  Serial& restored = copy->serial();
  CHECK(copy->serial_interrupts() == 1);
  CHECK(copy->Save().SerializeAsString() == devices.Save().SerializeAsString());
  CHECK(In(restored, 2) == 0xc6);  // The overrun.
  CHECK((In(restored, 5) & 0x03) == 0x03);
  CHECK(In(restored, 0) == 'c');
  for (size_t i = 1; i < kSerialInputFifoBytes; ++i) CHECK(In(restored, 0) == 'i');
  CHECK((In(restored, 5) & 0x03) == 0);
  CHECK(In(restored, 2) == 0xc2);  // The transmitter is empty: told once.
  CHECK(In(restored, 2) == 0xc1);
  CHECK(In(restored, 4) == 0x0b);
  CHECK(In(restored, 7) == 0x5a);
  Out(restored, 3, 0x80);
  CHECK(In(restored, 0) == 0x34);
  CHECK(In(restored, 1) == 0x12);
}

TEST_CASE("saved devices: what does not fit the machine's devices is refused by name") {
  DevicesFake devices;
  StartAll(devices);
  Saved saved = devices.Save();
  DevicesFake::Options options;
  std::string word;
  SECTION("another serial") {
    options.serial = "other";
    word = "virtio device 0 (block): the disk has another serial";
  }
  SECTION("a longer disk") {
    options.sectors = 65;
    word = "65 sectors, the saved one 64";
  }
  SECTION("a disk of another mode") {
    options.read_only = true;
    word = "the saved disk was writable";
  }
  SECTION("a port that is not declared") {
    options.host_ports = {1025};
    word = "host port 1024";
  }
  SECTION("one device less") {
    saved.mutable_virtio()->RemoveLast();
    word = "4 virtio devices, the saved one had 3";
  }
  SECTION("other devices") {
    saved.mutable_virtio()->SwapElements(1, 2);
    word = "virtio device 1 (block): a device of VIRTIO type 4";
  }
  const absl::Status status = CopyOf(devices, options)->Restore(Stored(saved));
  CHECK(status.code() == Code::kFailedPrecondition);
  CHECK(status.message().find(word) != absl::string_view::npos);
}

TEST_CASE("saved devices: another CID is told to a driver that runs, or is yet to come") {
  DevicesFake devices;
  DevicesFake::Options options;
  options.guest_cid = 77;
  MmioDriverFake& driver = devices.driver(DevicesFake::kVsock);
  const bool running = GENERATE(false, true);
  if (running) driver.Start();
  auto copy = CopyOf(devices, options);
  REQUIRE(copy->Restore(Stored(devices.Save())).ok());
  CHECK(copy->driver(DevicesFake::kVsock).Read(0x100) == 77);
  CHECK(copy->driver(DevicesFake::kVsock).Read(0xfc) == 1);
  CHECK(copy->vsock().reset() == (running ? VsockReset::kOwed : VsockReset::kNone));
}

TEST_CASE("saved devices: another CID is refused while a driver may be reading it") {
  DevicesFake devices;
  DevicesFake::Options options;
  options.guest_cid = 77;
  devices.driver(DevicesFake::kVsock).NegotiateFeatures(false);
  const absl::Status status = CopyOf(devices, options)->Restore(devices.Save());
  CHECK(status.code() == Code::kFailedPrecondition);
}

TEST_CASE("saved devices: nonsense is refused") {
  struct Case {
    const char* what;
    std::function<void(Saved&)> spoil;
  };
  const std::vector<Case> cases = {
      {"no serial port", [](Saved& s) { s.clear_serial(); }},
      {"interrupt_enable of 5 bits",
       [](Saved& s) { s.mutable_serial()->set_interrupt_enable(16); }},
      {"modem_control of 6 bits", [](Saved& s) { s.mutable_serial()->set_modem_control(32); }},
      {"fifo_control of 9 bits", [](Saved& s) { s.mutable_serial()->set_fifo_control(256); }},
      {"line_control of 9 bits", [](Saved& s) { s.mutable_serial()->set_line_control(256); }},
      {"scratch of 9 bits", [](Saved& s) { s.mutable_serial()->set_scratch(256); }},
      {"divisor of 17 bits", [](Saved& s) { s.mutable_serial()->set_divisor(65536); }},
      {"more input than the FIFO holds",
       [](Saved& s) { s.mutable_serial()->set_received(std::string(65, 'x')); }},
      {"status of 9 bits",
       [](Saved& s) { s.mutable_virtio(0)->mutable_transport()->set_status(0x10f); }},
      {"status that skips a step",
       [](Saved& s) { s.mutable_virtio(0)->mutable_transport()->set_status(5); }},
      {"status with NEEDS_RESET in it",
       [](Saved& s) { s.mutable_virtio(0)->mutable_transport()->set_status(0x4f); }},
      {"no transport", [](Saved& s) { s.mutable_virtio(0)->clear_transport(); }},
      {"a queue too many",
       [](Saved& s) { s.mutable_virtio(0)->mutable_transport()->add_queues(); }},
      {"a queue too few",
       [](Saved& s) { s.mutable_virtio(3)->mutable_transport()->mutable_queues()->RemoveLast(); }},
      {"a queue size of 17 bits",
       [](Saved& s) {
         s.mutable_virtio(0)->mutable_transport()->mutable_queues(0)->set_size(65536 + 128);
       }},
      {"an index of 17 bits",
       [](Saved& s) {
         s.mutable_virtio(0)->mutable_transport()->mutable_queues(0)->set_next_avail(65536);
       }},
      {"a used index of 17 bits",
       [](Saved& s) {
         s.mutable_virtio(0)->mutable_transport()->mutable_queues(0)->set_next_used(65536);
       }},
      {"a signalled index of 17 bits",
       [](Saved& s) {
         s.mutable_virtio(0)->mutable_transport()->mutable_queues(0)->set_signalled_used(65536);
       }},
      {"another device's features",
       [](Saved& s) {
         s.mutable_virtio(2)->mutable_transport()->set_driver_features(kFeatureVersion1 | 2);
       }},
      {"a disk without data", [](Saved& s) { s.mutable_virtio(0)->clear_block(); }},
      {"a disk with vsock's data", [](Saved& s) { s.mutable_virtio(0)->mutable_vsock(); }},
      {"entropy with a disk's data", [](Saved& s) { s.mutable_virtio(2)->mutable_block(); }},
      {"vsock without data", [](Saved& s) { s.mutable_virtio(3)->clear_vsock(); }},
      {"vsock's next port too low",
       [](Saved& s) { s.mutable_virtio(3)->mutable_vsock()->set_next_host_port(1024); }},
      {"vsock with too many ports",
       [](Saved& s) {
         for (int i = 0; i < 16; ++i) s.mutable_virtio(3)->mutable_vsock()->add_host_ports(1024);
       }},
      {"vsock's index of 17 bits",
       [](Saved& s) { s.mutable_virtio(3)->mutable_vsock()->set_reset_avail(65536); }},
  };
  DevicesFake devices;
  StartAll(devices);
  const Saved saved = devices.Save();
  for (const Case& each : cases) {
    CAPTURE(each.what);
    Saved spoilt = saved;
    each.spoil(spoilt);
    CHECK(CopyOf(devices)->Restore(Stored(spoilt)).code() == Code::kInvalidArgument);
  }
}

TEST_CASE("saved devices: a reset without a driver that runs is nonsense") {
  DevicesFake devices;
  Saved saved = devices.Save();
  saved.mutable_virtio(3)->mutable_vsock()->set_reset_unanswered(true);
  CHECK(CopyOf(devices)->Restore(saved).code() == Code::kInvalidArgument);
}

}  // namespace
}  // namespace hearth::vmm
