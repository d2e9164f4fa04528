// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

// The agent's one thread: file descriptors (level-triggered epoll) and timers. Callbacks may add,
// change and remove descriptors and timers, their own too.
class EventLoop {
 public:
  using FdCallback = std::function<void(uint32_t epoll_events)>;
  using TimerId = uint64_t;  // 0 is none.

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();

  // `fd` must stay open until Remove().
  absl::Status Add(int fd, uint32_t epoll_events, FdCallback callback);
  void Modify(int fd, uint32_t epoll_events);
  void Remove(int fd);

  // Calls back once, after `delay_ns` of CLOCK_MONOTONIC.
  TimerId After(int64_t delay_ns, std::function<void()> callback);
  void Cancel(TimerId id);  // No-op for 0 and for a timer that has fired.

  // Waits for at most `max_wait_ms` (-1: for ever) and handles what is ready.
  absl::Status RunOnce(int max_wait_ms = -1);

  static int64_t NowNs();

 private:
  struct Watch {
    uint32_t events = 0;
    FdCallback callback;
  };
  explicit EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}
  int WaitMs(int max_wait_ms) const;
  void RunTimers();

  UniqueFd epoll_;
  std::map<int, std::shared_ptr<Watch>> watches_;
  std::map<std::pair<int64_t, TimerId>, std::function<void()>> timers_;  // By deadline.
  std::map<TimerId, int64_t> deadlines_;
  TimerId last_timer_id_ = 0;
};

}  // namespace hearth::agent
