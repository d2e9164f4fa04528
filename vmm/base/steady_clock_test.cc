// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/steady_clock.h"

#include <catch2/catch.hpp>
#include <thread>

#include "absl/time/clock.h"
#include "vmm/base/testing/wall_clock.h"

namespace hearth {
namespace {

constexpr absl::Duration kStep = absl::Hours(10);
constexpr absl::Duration kPatience = absl::Hours(1);

TEST_CASE("steady clock: it goes on where the wall clock is set") {
  testing::WallClock wall;
  const absl::Time begin = SteadyNow();
  const absl::Time wall_begin = absl::Now();
  const absl::Duration step = kStep * GENERATE(1, -1);
  wall.Step(step);
  CHECK(absl::AbsDuration(absl::Now() - wall_begin - step) < kPatience);  // It was set.
  const absl::Time end = SteadyNow();
  CHECK(end >= begin);
  CHECK(end - begin < kPatience);
  CHECK(absl::AbsDuration(WallTimeOf(end) - absl::Now()) < kPatience);
  CHECK(absl::AbsDuration(SteadyTimeOf(absl::Now()) - end) < kPatience);
  CHECK(SteadyTimeOf(absl::InfiniteFuture()) == absl::InfiniteFuture());
}

TEST_CASE("steady clock: a deadline passes when its time has come, whatever the wall clock shows") {
  testing::WallClock wall;
  SteadyCondVar changed;
  absl::Mutex mutex;
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(5);
  wall.Step(kStep * GENERATE(1, -1));
  absl::MutexLock lock(&mutex);
  while (!changed.WaitWithDeadline(&mutex, deadline)) {
  }
  const absl::Duration late = SteadyNow() - deadline;
  CHECK(late >= absl::ZeroDuration());
  CHECK(late < kPatience);
  CHECK(changed.WaitWithDeadline(&mutex, absl::InfinitePast()));
}

TEST_CASE("steady clock: who waits is woken before the deadline, whatever the wall clock shows") {
  testing::WallClock wall;
  SteadyCondVar changed;
  absl::Mutex mutex;
  bool told = false;
  const absl::Time deadline = GENERATE(SteadyNow() + kPatience, absl::InfiniteFuture());
  wall.Step(kStep * GENERATE(1, -1));
  std::thread teller([&] {
    absl::MutexLock lock(&mutex);
    told = true;
    changed.SignalAll();
  });
  {
    absl::MutexLock lock(&mutex);
    while (!told && !changed.WaitWithDeadline(&mutex, deadline)) {
    }
    CHECK(told);
  }
  teller.join();
}

}  // namespace
}  // namespace hearth
