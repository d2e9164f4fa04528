// SPDX-License-Identifier: Apache-2.0
// One thread waits on epoll and runs callbacks.
//
// Threads: Post() and Stop() may be called from any thread, everything else only on the thread
// that calls Run() (before Run(), on the thread that set the loop up). The loop holds no lock
// while a callback runs: a callback that touches device state takes the device lock itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth {

class EventLoop {
 public:
  // `events` is what epoll reported (EPOLLIN, EPOLLHUP, ...).
  using Callback = std::function<void(uint32_t events)>;

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Watches `fd`, which stays the caller's and must be removed before it is closed. `events` are
  // epoll's, EPOLLET included. A callback may add, modify and remove any fd, its own too; after
  // Remove(fd) returns, its callback is not called again.
  absl::Status Add(int fd, uint32_t events, Callback callback);
  absl::Status Modify(int fd, uint32_t events);
  void Remove(int fd);

  // Runs `task` on the loop's thread, after the callbacks that are already due. Any thread.
  void Post(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);

  // Runs until Stop(). An error means that epoll itself failed.
  absl::Status Run();
  // Waits once, for at most `timeout_ms` (-1: no limit), and runs what is due.
  absl::Status RunOnce(int timeout_ms);
  // Makes Run() return once the callbacks that are due have run; sticky. Any thread.
  void Stop();

 private:
  struct Watch {
    Callback callback;
    uint32_t generation = 0;  // Tells a reused fd number from the one an event was queued for.
  };

  EventLoop(UniqueFd epoll, UniqueFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  void RunPosted() ABSL_LOCKS_EXCLUDED(mutex_);
  void Wake();

  UniqueFd epoll_;
  UniqueFd wake_;
  std::vector<std::unique_ptr<Watch>> watches_;  // By fd.
  std::vector<std::unique_ptr<Watch>> retired_;  // Removed during this round, freed after it.
  uint32_t next_generation_ = 1;
  std::atomic<bool> stopped_{false};

  Mutex mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
};

// A one-shot timer on a loop. Created and destroyed on the loop's thread; Arm and Disarm may be
// called from any thread. The callback may still run once after Disarm() from another thread.
class Timer {
 public:
  static absl::StatusOr<std::unique_ptr<Timer>> Create(EventLoop* loop,
                                                       std::function<void()> callback);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Due in `delay_ns` from now (at least 1 ns); replaces an earlier setting.
  void Arm(uint64_t delay_ns);
  void Disarm();

 private:
  Timer(EventLoop* loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}

  EventLoop* loop_;
  UniqueFd fd_;
  std::function<void()> callback_;
};

}  // namespace hearth
