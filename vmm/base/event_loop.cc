// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace hearth {
namespace {

constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr int kEventsPerWait = 64;

uint64_t PackEvent(int fd, uint32_t generation) {
  return (uint64_t{generation} << 32) | static_cast<uint32_t>(fd);
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return ErrnoStatus("epoll_create1");
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return ErrnoStatus("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = PackEvent(wake.get(), 0);
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return ErrnoStatus("epoll_ctl: add the wake eventfd");
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

EventLoop::~EventLoop() = default;

absl::Status EventLoop::Add(int fd, uint32_t events, Callback callback) {
  if (fd < 0) return absl::InvalidArgumentError("event loop: negative file descriptor");
  const size_t index = static_cast<size_t>(fd);
  if (index < watches_.size() && watches_[index] != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat("event loop: fd ", fd, " is watched already"));
  }
  auto watch = std::make_unique<Watch>();
  watch->callback = std::move(callback);
  watch->generation = next_generation_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = PackEvent(fd, watch->generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return ErrnoStatus(absl::StrCat("epoll_ctl: add fd ", fd));
  }
  if (index >= watches_.size()) watches_.resize(index + 1);
  watches_[index] = std::move(watch);
  return absl::OkStatus();
}

absl::Status EventLoop::Modify(int fd, uint32_t events) {
  const size_t index = static_cast<size_t>(fd);
  if (fd < 0 || index >= watches_.size() || watches_[index] == nullptr) {
    return absl::NotFoundError(absl::StrCat("event loop: fd ", fd, " is not watched"));
  }
  epoll_event event{};
  event.events = events;
  event.data.u64 = PackEvent(fd, watches_[index]->generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return ErrnoStatus(absl::StrCat("epoll_ctl: modify fd ", fd));
  }
  return absl::OkStatus();
}

void EventLoop::Remove(int fd) {
  const size_t index = static_cast<size_t>(fd);
  if (fd < 0 || index >= watches_.size() || watches_[index] == nullptr) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  retired_.push_back(std::move(watches_[index]));  // It may be the callback that is running.
}

void EventLoop::Wake() {
  const uint64_t one = 1;
  // EAGAIN means that a wake-up is pending already.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void EventLoop::Post(std::function<void()> task) {
  bool first = false;
  {
    MutexLock lock(&mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(task));
  }
  if (first) Wake();
}

void EventLoop::Stop() {
  stopped_.store(true, std::memory_order_release);
  Wake();
}

void EventLoop::RunPosted() {
  std::vector<std::function<void()>> tasks;
  {
    MutexLock lock(&mutex_);
    tasks.swap(posted_);
  }
  for (auto& task : tasks) task();
}

absl::Status EventLoop::RunOnce(int timeout_ms) {
  std::array<epoll_event, kEventsPerWait> events;
  const int count = epoll_wait(epoll_.get(), events.data(), kEventsPerWait, timeout_ms);
  if (count < 0) {
    if (errno == EINTR) return absl::OkStatus();
    return ErrnoStatus("epoll_wait");
  }
  bool woken = false;
  for (int i = 0; i < count; ++i) {
    const int fd = static_cast<int>(static_cast<uint32_t>(events[i].data.u64));
    if (fd == wake_.get()) {
      uint64_t value;
      [[maybe_unused]] const ssize_t got = read(wake_.get(), &value, sizeof(value));
      woken = true;
      continue;
    }
    const size_t index = static_cast<size_t>(fd);
    if (index >= watches_.size() || watches_[index] == nullptr) continue;
    Watch* watch = watches_[index].get();
    if (watch->generation != static_cast<uint32_t>(events[i].data.u64 >> 32)) continue;
    watch->callback(events[i].events);
  }
  if (woken) RunPosted();
  retired_.clear();
  return absl::OkStatus();
}

absl::Status EventLoop::Run() {
  while (!stopped_.load(std::memory_order_acquire)) RETURN_IF_ERROR(RunOnce(-1));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Timer>> Timer::Create(EventLoop* loop,
                                                     std::function<void()> callback) {
  UniqueFd fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!fd) return ErrnoStatus("timerfd_create");
  std::unique_ptr<Timer> timer(new Timer(loop, std::move(fd)));
  timer->callback_ = std::move(callback);
  Timer* self = timer.get();
  RETURN_IF_ERROR(loop->Add(self->fd_.get(), EPOLLIN, [self](uint32_t) {
    uint64_t expirations;
    // EAGAIN: disarmed or armed anew since epoll saw it.
    if (read(self->fd_.get(), &expirations, sizeof(expirations)) == sizeof(expirations)) {
      self->callback_();
    }
  }));
  return timer;
}

Timer::~Timer() { loop_->Remove(fd_.get()); }

void Timer::Arm(uint64_t delay_ns) {
  const uint64_t delay = std::max<uint64_t>(delay_ns, 1);
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(delay / kNanosecondsPerSecond);
  spec.it_value.tv_nsec = static_cast<long>(delay % kNanosecondsPerSecond);
  timerfd_settime(fd_.get(), 0, &spec, nullptr);
}

void Timer::Disarm() {
  const itimerspec spec{};
  timerfd_settime(fd_.get(), 0, &spec, nullptr);
}

}  // namespace hearth
