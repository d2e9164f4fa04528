// SPDX-License-Identifier: Apache-2.0
#include "control-plane/pool/timers.h"

#include <algorithm>
#include <utility>

namespace hearth::control {
namespace {

// Longer delays would overflow the clock's representation.
constexpr absl::Duration kLongestDelay = absl::Hours(24 * 365);

}  // namespace

ThreadTimers::ThreadTimers() : thread_([this] { Run(); }) {}

ThreadTimers::~ThreadTimers() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

Timers::Id ThreadTimers::After(absl::Duration delay, std::function<void()> callback) {
  const Clock::time_point when = Clock::now() + absl::ToChronoNanoseconds(std::clamp(
                                                    delay, absl::ZeroDuration(), kLongestDelay));
  const std::lock_guard<std::mutex> lock(mutex_);
  const Id id = next_id_++;
  times_.emplace(id, when);
  const auto it = due_.emplace(std::make_pair(when, id), std::move(callback)).first;
  if (it == due_.begin()) changed_.notify_one();
  return id;
}

void ThreadTimers::Cancel(Id id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto it = times_.find(id);
  if (it == times_.end()) return;
  due_.erase({it->second, id});
  times_.erase(it);
}

void ThreadTimers::Run() {
  while (true) {
    std::function<void()> callback;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      while (!stopping_ && (due_.empty() || due_.begin()->first.first > Clock::now())) {
        if (due_.empty()) {
          changed_.wait(lock);
        } else {
          const Clock::time_point next = due_.begin()->first.first;
          changed_.wait_until(lock, next);
        }
      }
      if (stopping_) return;
      callback = std::move(due_.begin()->second);
      times_.erase(due_.begin()->first.second);
      due_.erase(due_.begin());
    }
    callback();
  }
}

}  // namespace hearth::control
