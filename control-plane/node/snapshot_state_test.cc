// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/snapshot_state.h"

#include <catch2/catch.hpp>
#include <vector>

#include "control-plane/node/waiting_policy.h"

namespace hearth::control {
namespace {

using S = SnapshotState;
using E = SnapshotEvent;

const std::vector<S> kStates = {S::kNone,     S::kBuilding,   S::kReady,
                                S::kOutdated, S::kRefreshing, S::kDamaged};

// docs/version-life.md's table, row by row; kNone twice means that the event must not happen.
struct Row {
  E event;
  std::vector<std::pair<S, S>> moves;
};
const std::vector<Row> kTable = {
    {E::kBuildBegun,
     {{S::kNone, S::kBuilding},
      {S::kDamaged, S::kBuilding},
      {S::kReady, S::kRefreshing},
      {S::kOutdated, S::kRefreshing}}},
    {E::kBuilt, {{S::kBuilding, S::kReady}, {S::kRefreshing, S::kReady}}},
    {E::kBuildFailed, {{S::kBuilding, S::kNone}, {S::kRefreshing, S::kReady}}},
    {E::kImagesChanged,
     {{S::kReady, S::kOutdated}, {S::kOutdated, S::kOutdated}, {S::kRefreshing, S::kRefreshing}}},
    {E::kRefused,
     {{S::kReady, S::kDamaged}, {S::kOutdated, S::kDamaged}, {S::kRefreshing, S::kBuilding}}},
    {E::kDeleted,
     {{S::kNone, S::kNone},
      {S::kBuilding, S::kBuilding},
      {S::kReady, S::kNone},
      {S::kOutdated, S::kNone},
      {S::kRefreshing, S::kBuilding},
      {S::kDamaged, S::kNone}}},
};

TEST_CASE("snapshot state: every move is the table's, every other is refused") {
  for (const Row& row : kTable) {
    for (const S state : kStates) {
      INFO(Name(state) << " meets " << Name(row.event));
      const auto next = Transition(state, row.event);
      bool allowed = false;
      for (const auto& [from, to] : row.moves) {
        if (from != state) continue;
        allowed = true;
        REQUIRE(next.ok());
        CHECK(*next == to);
      }
      CHECK(next.ok() == allowed);
    }
  }
}

TEST_CASE("snapshot state: instances are restored while an old snapshot gives way to a new one") {
  CHECK(Serves(S::kReady));
  CHECK(Serves(S::kOutdated));
  CHECK(Serves(S::kRefreshing));
  CHECK_FALSE(Serves(S::kBuilding));
  CHECK_FALSE(Serves(S::kDamaged));
}

TEST_CASE("waiting policy: as many wait as the busiest second of the last minute asked for") {
  constexpr uint64_t kTotal = 1 << 30;
  WaitingPolicy policy(absl::nullopt, 8);
  const absl::Time begin = absl::FromUnixSeconds(1'000'000);
  CHECK(policy.Want(begin, kTotal, kTotal) == 0);
  for (int i = 0; i < 3; ++i) policy.MachineMade(begin);
  policy.MachineMade(begin + absl::Seconds(1));
  CHECK(policy.Want(begin + absl::Seconds(1), kTotal, kTotal) == 3);
  CHECK(policy.Want(begin + absl::Seconds(59), kTotal, kTotal) == 3);
  CHECK(policy.Want(begin + absl::Seconds(60), kTotal, kTotal) == 1);
  CHECK(policy.Want(begin + absl::Seconds(61), kTotal, kTotal) == 0);
  for (int i = 0; i < 100; ++i) policy.MachineMade(begin + absl::Seconds(90));
  CHECK(policy.Want(begin + absl::Seconds(90), kTotal, kTotal) == 8);
}

TEST_CASE("waiting policy: a fixed number waits, but none while memory is short") {
  constexpr uint64_t kTotal = 1 << 30;
  const WaitingPolicy policy(5, 8);
  const absl::Time now = absl::FromUnixSeconds(1'000'000);
  CHECK(policy.Want(now, kTotal, kTotal) == 5);
  CHECK(policy.Want(now, kTotal / 16, kTotal) == 5);
  CHECK(policy.Want(now, kTotal / 16 - 1, kTotal) == 0);
}

}  // namespace
}  // namespace hearth::control
