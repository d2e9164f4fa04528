// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/working_sets.h"

#include <catch2/catch.hpp>
#include <random>

#include "wire/limits.h"

namespace hearth::control {

TEST_CASE("working sets: runs must ascend, be whole and lie within the memory") {
  CHECK(CheckWorkingSet({}, 0).ok());
  CHECK(CheckWorkingSet({{0, 4, false}, {4, 4, true}, {9, 1, false}}, 10).ok());
  for (const WorkingSet& bad :
       {WorkingSet{{0, 0, false}}, WorkingSet{{0, 11, false}}, WorkingSet{{10, 1, false}},
        WorkingSet{{0, 4, false}, {3, 1, false}}, WorkingSet{{5, 1, false}, {0, 1, false}},
        WorkingSet{{UINT32_MAX, UINT32_MAX, true}}}) {
    CHECK(absl::IsInvalidArgument(CheckWorkingSet(bad, 10)));
  }
  WorkingSet many;
  for (uint32_t i = 0; i < wire::kMaxPageRuns; ++i) many.push_back({2 * i, 1, false});
  CHECK(CheckWorkingSet(many, 1 << 20).ok());
  many.push_back({100'000, 1, false});
  CHECK(absl::IsInvalidArgument(CheckWorkingSet(many, 1 << 20)));
}

TEST_CASE("working sets: joined, each page is there and written where either wrote it") {
  CHECK(JoinWorkingSets({{0, 4, false}}, {{4, 4, false}}, 9) == WorkingSet{{0, 8, false}});
  CHECK(JoinWorkingSets({{0, 8, false}}, {{2, 2, true}}, 9) ==
        WorkingSet{{0, 2, false}, {2, 2, true}, {4, 4, false}});
  CHECK(JoinWorkingSets({{0, 8, true}}, {{2, 9, false}}, 9) ==
        WorkingSet{{0, 8, true}, {8, 3, false}});
  CHECK(JoinWorkingSets({}, {{3, 1, true}}, 9) == WorkingSet{{3, 1, true}});
  CHECK(JoinWorkingSets({}, {}, 9).empty());
}

TEST_CASE("working sets: over the limit the smallest gaps are bridged") {
  const WorkingSet set = {{0, 1, false}, {10, 1, false}, {12, 1, false}, {20, 1, false}};
  CHECK(JoinWorkingSets(set, {}, 3) == WorkingSet{{0, 1, false}, {10, 3, false}, {20, 1, false}});
  CHECK(JoinWorkingSets(set, {}, 2) == WorkingSet{{0, 1, false}, {10, 11, false}});
  CHECK(JoinWorkingSets(set, {}, 1) == WorkingSet{{0, 21, false}});
  // Of two kinds the shorter gives in; written it must be.
  CHECK(JoinWorkingSets({{0, 9, true}, {9, 1, false}, {50, 5, false}}, {}, 2) ==
        WorkingSet{{0, 10, true}, {50, 5, false}});
}

TEST_CASE("working sets: joining random ones loses no page, in order and within the limit") {
  std::mt19937 random(7);  // NOLINT: the same each time.
  const auto make = [&] {
    WorkingSet set;
    for (uint32_t page = random() % 8; page < 2000; page += 1 + random() % 8) {
      const uint32_t count = std::min<uint32_t>(1 + random() % 6, 2000 - page);
      set.push_back({page, count, random() % 2 == 0});
      page += count;
    }
    return set;
  };
  const auto spread = [](const WorkingSet& set) {
    std::string pages(2000, '-');
    for (const PageRun& run : set) {
      for (uint32_t i = 0; i < run.page_count; ++i)
        pages[run.first_page + i] = run.written ? 'w' : 'r';
    }
    return pages;
  };
  for (int round = 0; round < 50; ++round) {
    const WorkingSet a = make();
    const WorkingSet b = make();
    const std::string all_a = spread(a);
    const std::string all_b = spread(b);
    for (const size_t limit : {1u, 2u, 17u, 100u, 100'000u}) {
      const WorkingSet joined = JoinWorkingSets(a, b, limit);
      REQUIRE(CheckWorkingSet(joined, 2000).ok());
      REQUIRE(joined.size() <= limit);
      const std::string pages = spread(joined);
      for (size_t i = 0; i < pages.size(); ++i) {
        const bool written = all_a[i] == 'w' || all_b[i] == 'w';
        const bool used = written || all_a[i] == 'r' || all_b[i] == 'r';
        if (written) REQUIRE(pages[i] == 'w');
        if (used) REQUIRE(pages[i] != '-');
        if (limit == 100'000u && !written) REQUIRE(pages[i] == (used ? 'r' : '-'));
      }
    }
  }
}

}  // namespace hearth::control
