// SPDX-License-Identifier: Apache-2.0
#include "agent/event_loop.h"

#include <sys/epoll.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <climits>

#include "vmm/base/status.h"

namespace hearth::agent {

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return ErrnoStatus("epoll_create1");
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

absl::Status EventLoop::Add(int fd, uint32_t epoll_events, FdCallback callback) {
  epoll_event event = {};
  event.events = epoll_events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoStatus("epoll_ctl add");
  auto watch = std::make_shared<Watch>();
  watch->events = epoll_events;
  watch->callback = std::move(callback);
  watches_[fd] = std::move(watch);
  return absl::OkStatus();
}

void EventLoop::Modify(int fd, uint32_t epoll_events) {
  auto it = watches_.find(fd);
  if (it == watches_.end() || it->second->events == epoll_events) return;
  it->second->events = epoll_events;
  epoll_event event = {};
  event.events = epoll_events;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::Remove(int fd) {
  if (watches_.erase(fd) > 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::After(int64_t delay_ns, std::function<void()> callback) {
  const TimerId id = ++last_timer_id_;
  const int64_t now = NowNs();
  const int64_t deadline =
      delay_ns > INT64_MAX - now ? INT64_MAX : now + std::max<int64_t>(delay_ns, 0);
  timers_.emplace(std::make_pair(deadline, id), std::move(callback));
  deadlines_.emplace(id, deadline);
  return id;
}

void EventLoop::Cancel(TimerId id) {
  auto it = deadlines_.find(id);
  if (it == deadlines_.end()) return;
  timers_.erase({it->second, id});
  deadlines_.erase(it);
}

int EventLoop::WaitMs(int max_wait_ms) const {
  if (timers_.empty()) return max_wait_ms;
  const int64_t left_ns = timers_.begin()->first.first - NowNs();
  if (left_ns <= 0) return 0;
  // Rounded up, so that the timer is due when epoll_wait returns.
  const int64_t left_ms = std::min<int64_t>(left_ns / 1'000'000 + 1, INT_MAX);
  return max_wait_ms < 0 ? static_cast<int>(left_ms)
                         : static_cast<int>(std::min<int64_t>(left_ms, max_wait_ms));
}

void EventLoop::RunTimers() {
  const int64_t now = NowNs();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    auto node = timers_.extract(timers_.begin());
    deadlines_.erase(node.key().second);
    node.mapped()();
  }
}

absl::Status EventLoop::RunOnce(int max_wait_ms) {
  std::array<epoll_event, 32> events;
  const int count =
      epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), WaitMs(max_wait_ms));
  if (count < 0 && errno != EINTR) return ErrnoStatus("epoll_wait");
  // A callback may remove a watch whose event is still in the batch, and even put another under the
  // same number: only the watches that stood at the beginning are called.
  std::array<std::shared_ptr<Watch>, 32> ready;
  for (int i = 0; i < count; ++i) {
    auto it = watches_.find(events[i].data.fd);
    if (it != watches_.end()) ready[i] = it->second;
  }
  for (int i = 0; i < count; ++i) {
    auto it = watches_.find(events[i].data.fd);
    if (ready[i] == nullptr || it == watches_.end() || it->second != ready[i]) continue;
    ready[i]->callback(events[i].events);
  }
  RunTimers();
  return absl::OkStatus();
}

int64_t EventLoop::NowNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

}  // namespace hearth::agent
