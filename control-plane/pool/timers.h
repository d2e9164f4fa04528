// SPDX-License-Identifier: Apache-2.0
// Callbacks at a later time, on the monotonic clock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/time/time.h"

namespace hearth::control {

// Thread-safe.
class Timers {
 public:
  using Id = uint64_t;  // Never 0.
  virtual ~Timers() = default;
  virtual Id After(absl::Duration delay, std::function<void()> callback) = 0;
  // The callback may be running already, or run once more on another thread.
  virtual void Cancel(Id id) = 0;
};

// One thread that sleeps until the next callback is due. Callbacks run one after the other and must
// not block. Destroyed, it waits for the one that runs and drops the rest.
class ThreadTimers final : public Timers {
 public:
  ThreadTimers();
  ~ThreadTimers() override;
  Id After(absl::Duration delay, std::function<void()> callback) override;
  void Cancel(Id id) override;

 private:
  using Clock = std::chrono::steady_clock;
  void Run();

  // Not absl's: its waits follow the wall clock, which may be set.
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  Id next_id_ = 1;
  std::map<std::pair<Clock::time_point, Id>, std::function<void()>> due_;
  std::map<Id, Clock::time_point> times_;
  std::thread thread_;
};

}  // namespace hearth::control
