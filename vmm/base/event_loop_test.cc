// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "vmm/base/token_bucket.h"

namespace hearth {
namespace {

UniqueFd Signalled() { return UniqueFd(eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)); }

TEST_CASE("event loop: a readable descriptor calls back until it is removed") {
  auto loop = *EventLoop::Create();
  UniqueFd fd = Signalled();
  int calls = 0;
  REQUIRE(loop->Add(fd.get(), EPOLLIN,
                    [&](uint32_t events) {
                      CHECK(events == EPOLLIN);
                      ++calls;
                    })
              .ok());
  CHECK_FALSE(loop->Add(fd.get(), EPOLLIN, [](uint32_t) {}).ok());
  REQUIRE(loop->RunOnce(0).ok());
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(calls == 2);
  REQUIRE(loop->Modify(fd.get(), 0).ok());
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(calls == 2);
  loop->Remove(fd.get());
  loop->Remove(fd.get());
  CHECK_FALSE(loop->Modify(fd.get(), EPOLLIN).ok());
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(calls == 2);
}

TEST_CASE("event loop: a callback may remove itself and others that are due") {
  auto loop = *EventLoop::Create();
  UniqueFd a = Signalled();
  UniqueFd b = Signalled();
  int calls = 0;
  const auto remove_both = [&](uint32_t) {
    ++calls;
    loop->Remove(a.get());
    loop->Remove(b.get());
  };
  REQUIRE(loop->Add(a.get(), EPOLLIN, remove_both).ok());
  REQUIRE(loop->Add(b.get(), EPOLLIN, remove_both).ok());
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(calls == 1);
}

TEST_CASE("event loop: an event of a closed descriptor does not reach its number's next user") {
  auto loop = *EventLoop::Create();
  UniqueFd a = Signalled();
  UniqueFd b = Signalled();
  int wrong = 0;
  const auto replace_other = [&](UniqueFd& other) {
    loop->Remove(other.get());
    const int number = other.get();
    other = UniqueFd();
    other = UniqueFd(eventfd(0, EFD_CLOEXEC));
    REQUIRE(other.get() == number);
    REQUIRE(loop->Add(number, EPOLLIN, [&](uint32_t) { ++wrong; }).ok());
  };
  bool done = false;
  REQUIRE(loop->Add(a.get(), EPOLLIN,
                    [&](uint32_t) {
                      if (!std::exchange(done, true)) replace_other(b);
                    })
              .ok());
  REQUIRE(loop->Add(b.get(), EPOLLIN,
                    [&](uint32_t) {
                      if (!std::exchange(done, true)) replace_other(a);
                    })
              .ok());
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(wrong == 0);
}

TEST_CASE("event loop: tasks posted from other threads run, in order, before Run() ends") {
  auto loop = *EventLoop::Create();
  std::vector<int> ran;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) loop->Post([&ran, i] { ran.push_back(i); });
    loop->Post([&] { loop->Stop(); });
  });
  REQUIRE(loop->Run().ok());
  other.join();
  REQUIRE(ran.size() == 1000);
  for (int i = 0; i < 1000; ++i) REQUIRE(ran[i] == i);
}

TEST_CASE("timer: it fires once when armed and not when disarmed") {
  auto loop = *EventLoop::Create();
  int fired = 0;
  auto timer = *Timer::Create(loop.get(), [&] { ++fired; });
  timer->Arm(0);
  REQUIRE(loop->RunOnce(-1).ok());
  CHECK(fired == 1);
  timer->Arm(3'600'000'000'000);
  timer->Arm(1);
  REQUIRE(loop->RunOnce(-1).ok());
  CHECK(fired == 2);
  timer->Arm(3'600'000'000'000);
  timer->Disarm();
  REQUIRE(loop->RunOnce(0).ok());
  CHECK(fired == 2);
}

TEST_CASE("token bucket: it lets its capacity through at once and its rate in the long run") {
  constexpr uint64_t kSecond = 1'000'000'000;
  TokenBucket bucket(10, 100);
  CHECK(bucket.TakeUpTo(100, kSecond) == 10);
  CHECK(bucket.TakeUpTo(100, kSecond) == 0);
  CHECK(bucket.TakeUpTo(100, kSecond + kSecond / 100) == 1);
  CHECK(bucket.TakeUpTo(100, 100 * kSecond) == 10);
  CHECK_FALSE(bucket.Take(2, 100 * kSecond + kSecond / 100));
  CHECK(bucket.Take(1, 100 * kSecond + kSecond / 100));
  CHECK(bucket.TakeUpTo(100, UINT64_MAX) == 10);
  CHECK(bucket.TakeUpTo(100, 5) == 0);  // Time never runs backwards; if it did, nothing is earned.
}

TEST_CASE("token bucket: often asked, it still earns its rate") {
  TokenBucket bucket(1000, 1000);
  bucket.TakeUpTo(1000, 1);
  uint64_t taken = 0;
  for (uint64_t now_ns = 1; now_ns <= 1'000'000'001; now_ns += 100'000) {
    taken += bucket.TakeUpTo(10, now_ns);
  }
  CHECK(taken == 1000);
}

TEST_CASE("token bucket: asked at odd times, it loses nothing of what it earned between") {
  TokenBucket bucket(64, 64);
  bucket.TakeUpTo(64, 1);
  uint64_t taken = 0;
  for (uint64_t now_ns = 1; now_ns <= 10'000'000'001; now_ns += 30'000'000) {
    taken += bucket.TakeUpTo(64, now_ns);
  }
  CHECK(taken >= 638);  // The last 10 ms have not earned yet.
  CHECK(taken <= 640);
}

}  // namespace
}  // namespace hearth
