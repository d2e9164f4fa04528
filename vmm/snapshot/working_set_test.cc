// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/working_set.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <random>

#include "vmm/base/unique_fd.h"
#include "vmm/snapshot/memory_file.h"
#include "vmm/testing/mapping_flags.h"

namespace hearth::vmm {
namespace {

using Runs = std::vector<PageRun>;

TEST_CASE("page runs: neighbours of one kind become one run") {
  PageRunCollector collector(10);
  for (const uint64_t page : {1, 2, 3}) collector.Add(page, false);
  for (const uint64_t page : {4, 5}) collector.Add(page, true);
  collector.Add(7, true);
  CHECK(collector.Finish() == Runs{{1, 3, false}, {4, 2, true}, {7, 1, true}});
}

TEST_CASE("page runs: beyond the limit the smallest gaps are bridged") {
  PageRunCollector collector(2);
  for (const uint64_t page : {0, 2, 100, 103, 300}) collector.Add(page, false);
  CHECK(collector.Finish() == Runs{{0, 104, false}, {300, 1, false}});
  PageRunCollector copies(2);
  copies.Add(0, false);
  copies.Add(4, false);  // Bridging these maps three pages,
  copies.Add(6, true);   // but these would copy two.
  CHECK(copies.Finish() == Runs{{0, 5, false}, {6, 1, true}});
}

TEST_CASE("page runs: there are never more than the limit, and no page gets lost") {
  std::mt19937 random(1);
  for (const size_t limit : {1u, 2u, 7u, 64u}) {
    PageRunCollector collector(limit);
    std::vector<std::pair<uint64_t, bool>> pages;
    uint64_t page = 0;
    for (int i = 0; i < 3000; ++i) {
      page += 1 + random() % (random() % 4 == 0 ? 30 : 1);
      pages.emplace_back(page, random() % 3 == 0);
      collector.Add(page, pages.back().second);
    }
    const Runs runs = collector.Finish();
    REQUIRE(runs.size() <= limit);
    uint64_t end = 0;
    size_t next = 0;
    for (const PageRun& run : runs) {
      REQUIRE(run.page_count > 0);
      REQUIRE((end == 0 || run.first_page >= end));
      end = run.first_page + run.page_count;
      for (; next < pages.size() && pages[next].first < end; ++next) {
        REQUIRE(pages[next].first >= run.first_page);
        REQUIRE((run.written || !pages[next].second));  // What was written stays so.
      }
    }
    CHECK(next == pages.size());
  }
}

TEST_CASE("working set: what was populated, read and written is told from what was not") {
  constexpr std::array<GuestMemory::Range, 2> kRanges = {
      {{GuestAddress(0), 4 << 20}, {GuestAddress(0x100000000), 4 << 20}}};
  const UniqueFd fd(memfd_create("hearth-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(ftruncate(fd.get(), 8 << 20) == 0);
  REQUIRE(pwrite(fd.get(), "x", 1, 0x100000) == 1);  // Elsewhere the file is a hole.
  REQUIRE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
  auto memory = MapMemoryFile(fd.get(), kRanges, {});
  REQUIRE(memory.ok());
  for (const auto& region : memory->regions()) {
    madvise(region.mapping.data(), region.mapping.size_bytes(), MADV_NOHUGEPAGE);
  }
  const UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  REQUIRE(pagemap);
  auto runs = ReadWorkingSet(*memory, pagemap.get(), 100);
  REQUIRE(runs.ok());
  CHECK(runs->empty());

  // Across the end of the first range, and far outside.
  PopulateWorkingSet(*memory, Runs{{1020, 8, true}, {1500, 4, true}, {1600, 4, false}});
  PopulateWorkingSet(*memory, Runs{{5000, 10, true}, {2047, UINT32_MAX, true}});
  REQUIRE(memory->WriteValue<uint8_t>(GuestAddress(0x100000000 + 900 * 4096), 1));
  CHECK(memory->ReadValue<uint8_t>(GuestAddress(0x100000)) == uint8_t{'x'});
  runs = ReadWorkingSet(*memory, pagemap.get(), 100);
  REQUIRE(runs.ok());
  const auto kind = [&](uint64_t page) {
    for (const PageRun& run : *runs) {
      if (page >= run.first_page && page < run.first_page + run.page_count) {
        return run.written ? 'w' : 'r';
      }
    }
    return '-';
  };
  CHECK(kind(0) == '-');
  CHECK(kind(0x100) == 'r');
  CHECK(kind(1019) == '-');
  CHECK(kind(1020) == 'w');
  CHECK(kind(1027) == 'w');
  CHECK(kind(1028) == '-');
  CHECK(kind(1503) == 'w');
  CHECK(kind(1600) == '-');
  CHECK(kind(1024 + 900) == 'w');
  CHECK(kind(2047) == 'w');
}

TEST_CASE(
    "working set: blocks that are mostly written where the file has nothing become large pages") {
  constexpr uint64_t kBlock = 2 << 20;
  const std::array<GuestMemory::Range, 2> ranges = {
      {{GuestAddress(0), 3 * kBlock}, {GuestAddress(0x100000000), 3 * kBlock}}};
  const UniqueFd fd(memfd_create("hearth-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(ftruncate(fd.get(), 6 * kBlock) == 0);
  // The first block is the file's, as are 64 pages of the second, and the last page of all.
  const std::string data(512 * 4096 + 64 * 4096, 'd');
  REQUIRE(pwrite(fd.get(), data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()));
  REQUIRE(pwrite(fd.get(), "e", 1, 6 * kBlock - 4096) == 1);
  REQUIRE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
  const std::array<PageRange, 2> holes = {{{512 + 64, 448}, {1024, 4 * 512 - 1}}};
  auto memory = MapMemoryFile(fd.get(), ranges, holes);
  REQUIRE(memory.ok());
  const Runs runs{{0, 512, true},                                 // No hole.
                  {600, 200, true},                               // Dense, in two runs,
                  {850, 120, true},                               // 320 pages.
                  {1024, 319, true},                              // One page short,
                  {1536, 512, false},                             // only read,
                  {2048, 320, true},  {2560, UINT32_MAX, true}};  // beyond the end.
  REQUIRE(OwnDenseBlocks(*memory, fd.get(), runs, holes).ok());
  PopulateWorkingSet(*memory, runs);
  for (const uint64_t block : {0, 1, 2, 3, 4, 5}) {
    INFO(block);
    const uint8_t* const base = memory->regions()[block / 3].mapping.data();
    CHECK(reinterpret_cast<uintptr_t>(base) % kBlock == 0);
    const bool own = block == 1 || block == 4 || block == 5;
    CHECK(testing::HasFlag(base + block % 3 * kBlock, "hg") == own);
    CHECK(testing::HasFlag(base + block % 3 * kBlock, "dd") == own);
  }
  // The bytes are the file's.
  for (const uint64_t page : {511, 512, 575}) {
    CHECK(memory->ReadValue<uint8_t>(GuestAddress(page * 4096 + 4095)) == uint8_t{'d'});
  }
  CHECK(memory->ReadValue<uint8_t>(GuestAddress(576 * 4096)) == uint8_t{0});
  CHECK(memory->ReadValue<uint8_t>(GuestAddress(0x100000000 + 3 * kBlock - 4096)) == uint8_t{'e'});
}

TEST_CASE("working set: a block that cannot be read is refused") {
  constexpr uint64_t kBlock = 2 << 20;
  const auto memory =
      GuestMemory::CreateAnonymous(std::array<GuestMemory::Range, 1>{{{GuestAddress(0), kBlock}}});
  REQUIRE(memory.ok());
  const Runs runs{{0, 512, true}};
  const std::array<PageRange, 1> holes = {{{1, 511}}};
  CHECK(OwnDenseBlocks(*memory, -1, runs, holes).message().find("memory file") !=
        std::string::npos);
  const UniqueFd empty(memfd_create("hearth-test", MFD_CLOEXEC));
  CHECK(absl::IsDataLoss(OwnDenseBlocks(*memory, empty.get(), runs, holes)));
}

TEST_CASE("working set: a pagemap that is none yields a status") {
  const auto memory =
      GuestMemory::CreateAnonymous(std::array<GuestMemory::Range, 1>{{{GuestAddress(0), 1 << 20}}});
  REQUIRE(memory.ok());
  const UniqueFd empty(memfd_create("hearth-test", MFD_CLOEXEC));
  CHECK_FALSE(ReadWorkingSet(*memory, empty.get(), 100).ok());
  CHECK_FALSE(ReadWorkingSet(*memory, -1, 100).ok());
}

}  // namespace
}  // namespace hearth::vmm
