// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/block.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <vector>

#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {
namespace {

constexpr uint64_t kSectors = 64;
constexpr GuestAddress kHeader = MmioDriverFake::kBuffers;
constexpr GuestAddress kStatus(kHeader.value() + 0x100);
constexpr GuestAddress kData(kHeader.value() + 0x1000);
constexpr uint8_t kUntouched = 0xee;

constexpr uint32_t kIn = 0;
constexpr uint32_t kOut = 1;
constexpr uint32_t kFlush = 4;
constexpr uint32_t kGetId = 8;

// A disk whose byte i is i / 512.
UniqueFd MakeDisk(uint64_t bytes = kSectors * kSectorBytes) {
  UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
  std::vector<uint8_t> content(bytes);
  for (size_t i = 0; i < bytes; ++i) content[i] = static_cast<uint8_t>(i / kSectorBytes);
  REQUIRE(write(fd.get(), content.data(), bytes) == static_cast<ssize_t>(bytes));
  return fd;
}

struct Fixture {
  explicit Fixture(bool read_only = false) {
    UniqueFd disk = MakeDisk();
    copy = UniqueFd(dup(disk.get()));
    block = *Block::Create({std::move(disk), read_only, "agent"});
    driver = std::make_unique<MmioDriverFake>(block.get());
    driver->Start();
  }

  // One request with its data in one buffer (none if `bytes` is 0); returns its status byte.
  uint8_t Request(uint32_t type, uint64_t sector, uint32_t bytes) {
    const BlockRequestHeader header{.type = type, .reserved = 0, .sector = sector};
    driver->memory().WriteValue(kHeader, header);
    driver->memory().WriteValue(kStatus, kUntouched);
    std::vector<VirtqueueFake::Buffer> buffers = {{kHeader, sizeof(header), false}};
    if (bytes != 0) buffers.push_back({kData, bytes, type != kOut});
    buffers.push_back({kStatus, 1, true});
    REQUIRE(driver->queue(0).Add(buffers));
    driver->Notify(0);
    const auto used = driver->queue(0).TakeUsed();
    REQUIRE(used.has_value());
    used_bytes = used->length;
    return *driver->memory().ReadValue<uint8_t>(kStatus);
  }
  uint8_t DataByte(uint64_t offset) {
    return *driver->memory().ReadValue<uint8_t>(GuestAddress(kData.value() + offset));
  }

  UniqueFd copy;
  std::unique_ptr<Block> block;
  std::unique_ptr<MmioDriverFake> driver;
  uint32_t used_bytes = 0;
};

TEST_CASE("block: the configuration space tells capacity and limits") {
  Fixture f;
  CHECK(f.driver->Read(0x100) == kSectors);
  CHECK(f.driver->Read(0x104) == 0);
  CHECK(f.driver->Read(0x108) == kBlockMaxSegmentBytes);
  CHECK(f.driver->Read(0x10c) == kBlockMaxSegments);
  CHECK(f.driver->Read(0x114) == 512);
}

TEST_CASE("block: a read puts the sectors into guest memory") {
  Fixture f;
  CHECK(f.Request(kIn, 5, 1024) == 0);
  CHECK(f.used_bytes == 1025);
  CHECK(f.DataByte(0) == 5);
  CHECK(f.DataByte(1023) == 6);
  CHECK(f.block->counters().read_bytes == 1024);
}

TEST_CASE("block: a write reaches the file") {
  Fixture f;
  for (uint64_t i = 0; i < 512; ++i) {
    f.driver->memory().WriteValue(GuestAddress(kData.value() + i), uint8_t{0xab});
  }
  CHECK(f.Request(kOut, 63, 512) == 0);
  CHECK(f.used_bytes == 1);
  uint8_t byte = 0;
  REQUIRE(pread(f.copy.get(), &byte, 1, 63 * 512) == 1);
  CHECK(byte == 0xab);
  CHECK(f.Request(kFlush, 0, 0) == 0);
  CHECK(f.block->counters().write_bytes == 512);
}

TEST_CASE("block: a request whose head, data and status are scattered is understood") {
  Fixture f;
  const BlockRequestHeader header{.type = kIn, .reserved = 0, .sector = 1};
  f.driver->memory().WriteValue(kHeader, header);
  const std::array<VirtqueueFake::Buffer, 4> buffers = {
      {{kHeader, 7, false},
       {GuestAddress(kHeader.value() + 7), 9, false},
       {kData, 100, true},
       {GuestAddress(kData.value() + 100), 413, true}}};  // 512 bytes of data and the status.
  REQUIRE(f.driver->queue(0).Add(buffers));
  f.driver->Notify(0);
  REQUIRE(f.driver->queue(0).TakeUsed()->length == 513);
  CHECK(f.DataByte(0) == 1);
  CHECK(f.DataByte(511) == 1);
  CHECK(f.DataByte(512) == 0);
}

TEST_CASE("block: a read past the capacity completes with IOERR") {
  Fixture f;
  CHECK(f.Request(kIn, kSectors, 512) == 1);
  CHECK(f.Request(kIn, kSectors - 1, 1024) == 1);
  CHECK(f.Request(kIn, UINT64_MAX, 512) == 1);
  CHECK(f.Request(kIn, UINT64_MAX / 512, 1024) == 1);
  CHECK(f.used_bytes == 1);
  CHECK(f.Request(kOut, kSectors, 512) == 1);
  CHECK(f.Request(kIn, kSectors - 1, 512) == 0);
  CHECK(f.block->counters().failed_requests == 5);
}

TEST_CASE("block: data that is no whole number of sectors completes with IOERR") {
  Fixture f;
  CHECK(f.Request(kIn, 0, 511) == 1);
  CHECK(f.Request(kOut, 0, 513) == 1);
  CHECK(f.Request(kIn, 0, 0) == 1);
}

TEST_CASE("block: a read-only disk says so and refuses writes") {
  Fixture f(true);
  f.driver->Write(0x14, 0);
  CHECK((f.driver->Read(0x10) & (1 << 5)) != 0);
  CHECK(f.Request(kOut, 0, 512) == 1);
  CHECK(f.Request(kIn, 0, 512) == 0);
  CHECK(f.Request(kFlush, 0, 0) == 0);
}

TEST_CASE("block: the id is the serial, padded with zeros") {
  Fixture f;
  CHECK(f.Request(kGetId, 0, 20) == 0);
  CHECK(f.used_bytes == 21);
  CHECK(f.DataByte(0) == 'a');
  CHECK(f.DataByte(4) == 't');
  CHECK(f.DataByte(5) == 0);
  CHECK(f.Request(kGetId, 0, 19) == 1);
}

TEST_CASE("block: an unknown request completes with UNSUPP") {
  Fixture f;
  CHECK(f.Request(2, 0, 0) == 2);
  CHECK(f.Request(11, 0, 512) == 2);
  CHECK(f.Request(UINT32_MAX, 0, 0) == 2);
}

TEST_CASE("block: a file that became shorter gives IOERR, not a crash") {
  Fixture f;
  REQUIRE(ftruncate(f.copy.get(), 512) == 0);
  CHECK(f.Request(kIn, 5, 512) == 1);
  CHECK(f.Request(kIn, 0, 1024) == 1);
  CHECK(f.Request(kIn, 0, 512) == 0);
}

TEST_CASE("block: a request without room for a status, or without a head, needs a reset") {
  Fixture f;
  std::vector<VirtqueueFake::Buffer> buffers;
  SECTION("nothing writable") { buffers = {{kHeader, 16, false}}; }
  SECTION("a short head") { buffers = {{kHeader, 15, false}, {kStatus, 1, true}}; }
  SECTION("no head") { buffers = {{kStatus, 1, true}}; }
  REQUIRE(f.driver->queue(0).Add(buffers));
  f.driver->Notify(0);
  CHECK(f.driver->needs_reset());
  CHECK_FALSE(f.driver->queue(0).TakeUsed().has_value());
  CHECK(f.driver->guest_errors() == 1);
}

TEST_CASE("block: a full queue of requests is worked off with one interrupt") {
  Fixture f;
  const BlockRequestHeader header{.type = kIn, .reserved = 0, .sector = 0};
  f.driver->memory().WriteValue(kHeader, header);
  const std::array<VirtqueueFake::Buffer, 3> buffers = {
      {{kHeader, sizeof(header), false}, {kData, 4096, true}, {kStatus, 1, true}}};
  int added = 0;
  while (f.driver->queue(0).Add(buffers)) ++added;
  REQUIRE(added == kBlockQueueSize / 3);
  const int before = f.driver->interrupts();
  f.driver->Notify(0);
  for (int i = 0; i < added; ++i) REQUIRE(f.driver->queue(0).TakeUsed().has_value());
  CHECK(f.driver->interrupts() == before + 1);
}

// A driver that makes the same request available over and over, which costs a guest two writes.
void OfferOverAndOver(Fixture& f, uint32_t type) {
  const BlockRequestHeader header{.type = type, .reserved = 0, .sector = 0};
  f.driver->memory().WriteValue(kHeader, header);
  const std::array<VirtqueueFake::Buffer, 2> buffers = {
      {{kHeader, sizeof(header), false}, {kStatus, 1, true}}};
  int added = 0;
  while (f.driver->queue(0).Add(buffers)) ++added;
  REQUIRE(added == kBlockQueueSize / 2);
  f.driver->queue(0).SetAvailIndex(kBlockQueueSize);  // The ring's second half is as it was: zeros.
}

TEST_CASE("block: a turn ends after so many requests, and a flush counts as many") {
  Fixture f;
  const auto [type, turn] =
      GENERATE(std::pair<uint32_t, uint32_t>(UINT32_MAX, kBlockTurnRequests),
               std::pair<uint32_t, uint32_t>(kFlush, kBlockTurnBytes / kBlockFlushBytes));
  OfferOverAndOver(f, type);
  f.driver->transport().NotifyQueue(0);
  CHECK(f.driver->transport().state().queues[0].next_used == turn);
  CHECK(f.driver->kicks() == 1);
  f.driver->RunKicks();
  CHECK(f.driver->transport().state().queues[0].next_used == kBlockQueueSize);
  CHECK_FALSE(f.driver->needs_reset());
}

TEST_CASE("block: what is no disk, or not open for what is asked, is refused") {
  UniqueFd pipe_end;
  std::array<int, 2> pipe_fds;
  REQUIRE(pipe(pipe_fds.data()) == 0);
  UniqueFd other(pipe_fds[1]);
  CHECK_FALSE(Block::Create({UniqueFd(pipe_fds[0]), true, ""}).ok());
  CHECK_FALSE(Block::Create({UniqueFd(), true, ""}).ok());
  CHECK_FALSE(Block::Create({MakeDisk(511), true, ""}).ok());
  CHECK_FALSE(Block::Create({MakeDisk(), true, "a serial of 21 bytes."}).ok());
  CHECK_FALSE(Block::Create({UniqueFd(open("/proc/self/exe", O_RDONLY)), false, ""}).ok());
  CHECK(Block::Create({UniqueFd(open("/proc/self/exe", O_RDONLY)), true, ""}).ok());
}

}  // namespace
}  // namespace hearth::vmm
