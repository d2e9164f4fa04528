// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>

#include "vmm/base/unique_fd.h"

namespace hearth::vmm {
namespace {

constexpr GuestAddress kHigh(0x100000000);
constexpr std::array<GuestMemory::Range, 2> kRanges = {
    {{GuestAddress(0), 4 << 20}, {kHigh, 2 << 20}}};
constexpr off_t kTotal = 6 << 20;
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;

UniqueFd Memfd() {
  UniqueFd fd(memfd_create("hearth-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(fd);
  return fd;
}

std::string Refusal(int fd) {
  const auto memory = MapMemoryFile(fd, kRanges, {});
  REQUIRE_FALSE(memory.ok());
  CHECK(memory.status().code() == absl::StatusCode::kFailedPrecondition);
  return std::string(memory.status().message());
}

TEST_CASE("memory file: it holds the ranges one behind the other, zero pages as holes") {
  const auto memory = GuestMemory::CreateAnonymous(kRanges);
  REQUIRE(memory.ok());
  // The first and the last page of each range, each by one byte at another place.
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress(0), 1));
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress((4 << 20) - 1), 2));
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress(kHigh.value() + 7), 3));
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress(kHigh.value() + 4096 + 8), 4));
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress(kHigh.value() + (2 << 20) - 1), 5));
  const UniqueFd fd = Memfd();
  const auto size = WriteMemoryFile(*memory, fd.get());
  REQUIRE(size.ok());
  CHECK(size->bytes == kTotal);
  CHECK(size->data_pages == 5);
  // Only large holes are told.
  const std::vector<PageRange> holes = {{1, 1022}, {1026, 509}};
  CHECK(size->holes == holes);
  const auto found = FindHoles(fd.get());
  REQUIRE(found.ok());
  CHECK(*found == holes);
  struct stat info;
  REQUIRE(fstat(fd.get(), &info) == 0);
  CHECK(info.st_size == kTotal);
  CHECK(info.st_blocks * 512 == 5 * 4096);

  REQUIRE(fcntl(fd.get(), F_ADD_SEALS, kSeals) == 0);
  const auto copy = MapMemoryFile(fd.get(), kRanges, holes);
  REQUIRE(copy.ok());
  CHECK(copy->ReadValue<uint8_t>(GuestAddress((4 << 20) - 1)) == uint8_t{2});
  CHECK(copy->ReadValue<uint8_t>(GuestAddress(kHigh.value() + 7)) == uint8_t{3});
  CHECK(copy->ReadValue<uint8_t>(GuestAddress(kHigh.value() + (2 << 20) - 1)) == uint8_t{5});
  CHECK(copy->ReadValue<uint32_t>(GuestAddress(0x1000)) == uint32_t{0});

  // A copy's writes are its own.
  REQUIRE(copy->WriteValue<uint8_t>(GuestAddress(0), 9));
  const auto other = MapMemoryFile(fd.get(), kRanges, holes);
  REQUIRE(other.ok());
  CHECK(other->ReadValue<uint8_t>(GuestAddress(0)) == uint8_t{1});

  // What is written to a hole is in the copy alone: the file has not grown, others see zeros.
  REQUIRE(copy->WriteValue<uint8_t>(GuestAddress(1 << 20), 7));
  CHECK(copy->ReadValue<uint8_t>(GuestAddress(1 << 20)) == uint8_t{7});
  CHECK(other->ReadValue<uint8_t>(GuestAddress(1 << 20)) == uint8_t{0});
  REQUIRE(fstat(fd.get(), &info) == 0);
  CHECK(info.st_blocks * 512 == 5 * 4096);
}

TEST_CASE("memory file: it is written into an empty file only") {
  const auto memory = GuestMemory::CreateAnonymous(kRanges);
  REQUIRE(memory.ok());
  const UniqueFd fd = Memfd();
  REQUIRE(ftruncate(fd.get(), 1) == 0);
  CHECK(WriteMemoryFile(*memory, fd.get()).status().code() == absl::StatusCode::kInvalidArgument);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  CHECK_FALSE(WriteMemoryFile(*memory, write_end.get()).ok());
  CHECK_FALSE(WriteMemoryFile(*memory, -1).ok());
}

TEST_CASE("memory file: one that others could change, or of another size, is refused") {
  const UniqueFd fd = Memfd();
  REQUIRE(ftruncate(fd.get(), kTotal) == 0);
  CHECK_THAT(Refusal(fd.get()), Catch::Contains("not sealed"));
  REQUIRE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  CHECK_THAT(Refusal(fd.get()), Catch::Contains("not sealed"));
  REQUIRE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE) == 0);
  CHECK(MapMemoryFile(fd.get(), kRanges, {}).ok());

  for (const off_t size : {off_t{0}, kTotal - 1, kTotal - 4096, kTotal + 4096}) {
    const UniqueFd other = Memfd();
    REQUIRE(ftruncate(other.get(), size) == 0);
    REQUIRE(fcntl(other.get(), F_ADD_SEALS, kSeals) == 0);
    CHECK_THAT(Refusal(other.get()), Catch::Contains(absl::StrCat("has ", size, " bytes")));
  }
  CHECK_THAT(Refusal(STDIN_FILENO), Catch::Contains("no memfd"));
  CHECK_THAT(Refusal(-1), Catch::Contains("no memfd"));
}

}  // namespace
}  // namespace hearth::vmm
