// SPDX-License-Identifier: Apache-2.0
// Guests that send well-formed chains with ill-formed requests.
#include <catch2/catch.hpp>

#include "tests/hostile-guest/hostile_machine.h"

namespace hearth::vmm::testing {
namespace {

constexpr uint32_t kDiskSectors = (64 << 10) / 512;
constexpr uint32_t kStatusByte = kBuffers + 0x800;
constexpr uint32_t kOk = 0, kIoError = 1, kUnsupported = 2;

struct DiskCase {
  const char* what;
  Target target;
  uint32_t type;
  uint64_t sector;
  uint32_t data_bytes;
  uint16_t data_flags;
  uint32_t status;
};

TEST_CASE("hostile: disk requests that cannot be done get their status, and the disk lives on") {
  REQUIRE_KVM();
  constexpr DiskCase kCases[] = {
      {"a read", Target::kDisk, 0, 0, 512, kWrite, kOk},
      {"a read of the last sector", Target::kDisk, 0, kDiskSectors - 1, 512, kWrite, kOk},
      {"a read past the end", Target::kDisk, 0, kDiskSectors, 512, kWrite, kIoError},
      {"a read across the end", Target::kDisk, 0, kDiskSectors - 1, 1024, kWrite, kIoError},
      {"a sector that wraps in bytes", Target::kDisk, 0, 1ull << 55, 512, kWrite, kIoError},
      {"the last sector there is", Target::kDisk, 0, ~0ull, 512, kWrite, kIoError},
      {"a read of half a sector", Target::kDisk, 0, 0, 100, kWrite, kIoError},
      {"a write", Target::kDisk, 1, 0, 512, 0, kOk},
      {"a write past the end", Target::kDisk, 1, kDiskSectors, 512, 0, kIoError},
      {"a write that wraps", Target::kDisk, 1, ~0ull, 4096, 0, kIoError},
      {"a write to a read-only disk", Target::kReadOnlyDisk, 1, 0, 512, 0, kIoError},
      {"an unknown type", Target::kDisk, 99, 0, 512, kWrite, kUnsupported},
      {"the type of all ones", Target::kDisk, ~0u, 0, 512, 0, kUnsupported},
      {"a discard, which is not offered", Target::kDisk, 11, 0, 512, 0, kUnsupported},
  };
  for (const DiskCase& test : kCases) {
    INFO(test.what);
    HostileDriver driver(test.target);
    driver.BringUp();
    driver.script().Fill(kBuffers, 0, 0x400);
    driver.script().Write32(kBuffers, test.type);
    driver.script().Write32(kBuffers + 8, static_cast<uint32_t>(test.sector));
    driver.script().Write32(kBuffers + 12, static_cast<uint32_t>(test.sector >> 32));
    driver.script().Write8(kStatusByte, 0xee);
    driver.Describe(0, 0, {kBuffers, 16, kNext, 1});
    driver.Describe(
        0, 1,
        {kBuffers + 0x1000, test.data_bytes, static_cast<uint16_t>(kNext | test.data_flags), 2});
    driver.Describe(0, 2, {kStatusByte, 1, kWrite, 0});
    driver.Offer(0, {0}).AwaitUsed(0, 1);
    driver.script().Read8(kStatusByte);
    driver.ProveHealthy();
    const auto yields = RunToEnd(driver.script());
    REQUIRE(yields.size() == 3);
    CHECK(yields[0] == 1);
    CHECK(yields[1] == test.status);
    CHECK(yields[2] == 1);
  }
}

TEST_CASE("hostile: disk requests without a header or a status byte") {
  REQUIRE_KVM();
  for (uint32_t header_bytes : {0u, 1u, 8u, 15u}) {
    INFO("header of " << header_bytes);
    HostileDriver driver(Target::kDisk);
    driver.BringUp().Describe(0, 0, {kBuffers, header_bytes, kNext, 1});
    driver.Describe(0, 1, {kStatusByte, 1, kWrite, 0}).Offer(0, {0});
    driver.ProveHealthy();
    CHECK(RunToEnd(driver.script()).back() == 1);
  }
  HostileDriver driver(Target::kDisk);
  driver.BringUp().Describe(0, 0, {kBuffers, 16, 0, 0}).Offer(0, {0});
  driver.AwaitNeedsReset().ProveHealthy();
  const auto yields = RunToEnd(driver.script());
  CHECK(yields == std::vector<uint32_t>{1, 1});
}

TEST_CASE("hostile: a disk flooded with whole rings of requests") {
  REQUIRE_KVM();
  HostileDriver driver(Target::kDisk);
  driver.BringUp().DescribeGoodRequest();
  for (uint16_t round = 1; round <= 200; ++round) {
    driver.Offer(0, {0, 0, 0, 0, 0, 0, 0, 0}, static_cast<uint16_t>(round * 8));
    driver.AwaitUsed(0, static_cast<uint16_t>(round * 8));
  }
  driver.ProveHealthy();
  for (uint32_t yield : RunToEnd(driver.script())) CHECK(yield == 1);
}

TEST_CASE("hostile: the rng is asked for all of memory, for nothing, and for its own rings") {
  REQUIRE_KVM();
  HostileDriver driver(Target::kRng);
  driver.BringUp();
  driver.Describe(0, 0, {0x400000, 0x400000, kWrite, 0});
  driver.Describe(0, 1, {kBuffers, 0, kWrite, 0});
  driver.Describe(0, 2, {Used(0), 4096, kWrite, 0});
  driver.Describe(0, 3, {kBuffers, 64, 0, 0});
  driver.Offer(0, {0, 1, 0, 1, 2, 3});
  driver.ProveHealthy();
  CHECK(RunToEnd(driver.script()).back() == 1);
}

// Puts a packet's header to `at` in memory.
struct Packet {
  uint64_t source_cid = 3;
  uint64_t target_cid = 2;
  uint32_t source_port = 5000;
  uint32_t target_port = kHostPort;
  uint32_t length = 0;
  uint16_t type = 1;
  uint16_t operation = 1;
  uint32_t flags = 0;
  uint32_t buffer_bytes = 65536;
  uint32_t forwarded = 0;
};
void WritePacket(PokeScript& script, uint32_t at, const Packet& packet) {
  const uint32_t words[11] = {static_cast<uint32_t>(packet.source_cid),
                              static_cast<uint32_t>(packet.source_cid >> 32),
                              static_cast<uint32_t>(packet.target_cid),
                              static_cast<uint32_t>(packet.target_cid >> 32),
                              packet.source_port,
                              packet.target_port,
                              packet.length,
                              packet.type | uint32_t{packet.operation} << 16,
                              packet.flags,
                              packet.buffer_bytes,
                              packet.forwarded};
  for (uint32_t i = 0; i < 11; ++i) script.Write32(at + i * 4, words[i]);
}

// Brings a vsock up with eight receive buffers of `receive_bytes`.
void BringUpVsock(HostileDriver& driver, uint32_t receive_bytes) {
  driver.BringUp();
  if (receive_bytes == 0) return;
  for (uint16_t i = 0; i < 8; ++i) {
    driver.Describe(0, i, {kBuffers + 0x10000 + i * 0x2000ull, receive_bytes, kWrite, 0});
  }
  driver.Offer(0, {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("hostile: vsock packets with impossible headers") {
  REQUIRE_KVM();
  std::vector<Packet> packets;
  for (uint16_t operation : {0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7fff, 0xffff}) {
    packets.push_back({});
    packets.back().operation = operation;
    packets.push_back(packets.back());
    packets.back().length = 0xffffffff;
    packets.push_back(packets.back());
    packets.back().length = 1000;  // More than the chain holds.
    packets.push_back(packets.back());
    packets.back().flags = 0xffffffff;
    packets.back().length = 0;
  }
  for (uint64_t cid : {0ull, 1ull, 2ull, 4ull, 0xffffffffull, 0x100000003ull, ~0ull}) {
    packets.push_back({});
    packets.back().source_cid = cid;
    packets.push_back({});
    packets.back().target_cid = cid;
  }
  for (uint16_t type : {uint16_t{0}, uint16_t{2}, uint16_t{0xffff}}) {
    packets.push_back({});
    packets.back().type = type;
  }
  for (uint32_t port : {0u, 1u, 1023u, 1025u, 0xffffffffu}) {
    packets.push_back({});
    packets.back().target_port = port;
  }
  for (size_t i = 0; i < packets.size(); ++i) {
    INFO("packet " << i);
    HostileDriver driver(Target::kVsock);
    BringUpVsock(driver, 4096);
    WritePacket(driver.script(), kBuffers, packets[i]);
    driver.Describe(1, 0, {kBuffers, 44, 0, 0}).Offer(1, {0, 0, 0});
    driver.ProveHealthy();
    CHECK(RunToEnd(driver.script()).back() == 1);
  }
}

TEST_CASE("hostile: vsock connections without end, to declared and undeclared ports") {
  REQUIRE_KVM();
  for (uint32_t port : {kHostPort, 9999u}) {
    INFO("port " << port);
    HostileDriver driver(Target::kVsock);
    BringUpVsock(driver, 4096);
    Packet packet;
    packet.target_port = port;
    for (uint16_t round = 0; round < 100; ++round) {
      for (uint16_t i = 0; i < 8; ++i) {
        packet.source_port = 10'000u + round * 8u + i;
        WritePacket(driver.script(), kBuffers + i * 64u, packet);
        driver.Describe(1, i, {kBuffers + i * 64ull, 44, 0, 0});
      }
      driver.Offer(1, {0, 1, 2, 3, 4, 5, 6, 7}, static_cast<uint16_t>(round * 8 + 8));
      // Each is answered; then the receive buffers come round again.
      driver.AwaitUsed(1, static_cast<uint16_t>(round * 8 + 8));
      driver.AwaitUsed(0, static_cast<uint16_t>(round * 8 + 8));
      driver.Offer(0, {0, 1, 2, 3, 4, 5, 6, 7}, static_cast<uint16_t>(round * 8 + 16));
    }
    driver.ProveHealthy();
    const HostileResult result = RunHostile(driver.script());
    REQUIRE(result.exited.reason() == v1::Exited::REASON_GUEST_RESET);
    for (uint32_t yield : result.yields) CHECK(yield == 1);
    size_t connections = 0;
    for (const auto& event : result.events) {
      if (event.event.has_vsock_connection()) {
        ++connections;
        CHECK(event.event.vsock_connection().port() == kHostPort);
        CHECK(event.fds.size() == 1);
      }
    }
    INFO(connections << " connections");
    CHECK((port == kHostPort ? connections > 0 && connections <= 512 : connections == 0));
  }
}

TEST_CASE("hostile: vsock data beyond the credit, on a half-open and on an open connection") {
  REQUIRE_KVM();
  HostileDriver driver(Target::kVsock);
  BringUpVsock(driver, 4096);
  Packet packet;
  WritePacket(driver.script(), kBuffers, packet);
  packet.operation = 5;
  packet.length = 60'000;
  packet.buffer_bytes = 0xffffffff;
  packet.forwarded = 0x80000000;
  WritePacket(driver.script(), kBuffers + 64, packet);
  driver.Describe(1, 0, {kBuffers, 44, 0, 0});
  driver.Describe(1, 1, {kBuffers + 64, 44, kNext, 2});
  driver.Describe(1, 2, {0x400000, 60'000, 0, 0});
  driver.Offer(1, {1, 0, 1, 1, 1, 1, 1, 1});
  for (uint16_t round = 1; round < 20; ++round) {
    driver.Offer(1, {1, 1, 1, 1, 1, 1, 1, 1}, static_cast<uint16_t>(8 + round * 8));
  }
  driver.ProveHealthy();
  CHECK(RunToEnd(driver.script()).back() == 1);
}

TEST_CASE("hostile: a vsock whose receive buffers are too small, readable, or never come") {
  REQUIRE_KVM();
  for (uint32_t receive_bytes : {0u, 1u, 43u, 44u, 45u}) {
    INFO("receive buffers of " << receive_bytes);
    HostileDriver driver(Target::kVsock);
    BringUpVsock(driver, receive_bytes);
    Packet packet;
    packet.target_port = 9999;  // Answered with a reset, which needs a receive buffer.
    WritePacket(driver.script(), kBuffers, packet);
    driver.Describe(1, 0, {kBuffers, 44, 0, 0});
    for (uint16_t round = 0; round < 60; ++round) {
      driver.Offer(1, {0, 0, 0, 0, 0, 0, 0, 0}, static_cast<uint16_t>(round * 8 + 8));
    }
    driver.ProveHealthy();
    CHECK(RunToEnd(driver.script()).back() == 1);
  }
  HostileDriver driver(Target::kVsock);
  driver.BringUp();
  driver.Describe(0, 0, {kBuffers, 4096, 0, 0}).Offer(0, {0});
  driver.Describe(2, 0, {kBuffers, 8, 0, 0}).Offer(2, {0});
  driver.DescribeGoodRequest(3).Offer(1, {3});
  driver.ProveHealthy();
  CHECK(RunToEnd(driver.script()).back() == 1);
}

}  // namespace
}  // namespace hearth::vmm::testing
