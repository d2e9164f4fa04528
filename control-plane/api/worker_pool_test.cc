// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/worker_pool.h"

#include <absl/synchronization/notification.h>

#include <atomic>
#include <catch2/catch.hpp>

namespace hearth::control {

TEST_CASE("workers: tasks beyond threads and queue are refused, all that were taken are run") {
  std::atomic<int> ran{0};
  absl::Notification gate;
  int taken = 0;
  {
    WorkerPool pool(2, 3);
    for (int i = 0; i < 10; ++i) {
      taken += pool.TrySubmit([&] {
        gate.WaitForNotification();
        ++ran;
      });
    }
    gate.Notify();
  }
  CHECK(taken == 5);
  CHECK(ran == taken);
}

TEST_CASE("workers: a place that is reserved is nobody else's, and free again when given back") {
  std::atomic<int> ran{0};
  {
    WorkerPool pool(1, 0);
    {
      const auto place = pool.Reserve();
      REQUIRE(place.has_value());
      CHECK_FALSE(pool.Reserve().has_value());
      CHECK_FALSE(pool.TrySubmit([&] { ran = 100; }));
    }
    auto place = pool.Reserve();
    REQUIRE(place.has_value());
    std::move(*place).Submit([&] { ++ran; });
  }
  CHECK(ran == 1);
}

TEST_CASE("workers: threads are used again") {
  WorkerPool pool(1, 0);
  for (int i = 0; i < 100; ++i) {
    absl::Notification done;
    while (!pool.TrySubmit([&] { done.Notify(); })) {
    }
    done.WaitForNotification();
  }
}

}  // namespace hearth::control
