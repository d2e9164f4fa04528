// SPDX-License-Identifier: Apache-2.0
#include "control-plane/pool/pool.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "control-plane/node/node.h"

namespace hearth::control {
namespace {

class Member final : public PoolMember {
 public:
  using PoolMember::PoolMember;
  bool usable() const override { return usable_flag; }
  std::atomic<bool> usable_flag{true};
};

// Time that passes when the test says so.
class ManualTimers final : public Timers {
 public:
  Id After(absl::Duration delay, std::function<void()> callback) override {
    absl::MutexLock lock(&mutex_);
    due_[next_] = {now_ + delay, std::move(callback)};
    return next_++;
  }
  void Cancel(Id id) override {
    absl::MutexLock lock(&mutex_);
    due_.erase(id);
  }
  void Advance(absl::Duration by) {
    std::vector<std::function<void()>> ready;
    {
      absl::MutexLock lock(&mutex_);
      now_ += by;
      for (auto it = due_.begin(); it != due_.end();) {
        if (it->second.first > now_) {
          ++it;
          continue;
        }
        ready.push_back(std::move(it->second.second));
        it = due_.erase(it);
      }
    }
    for (const auto& callback : ready) callback();
  }

 private:
  absl::Mutex mutex_;
  absl::Duration now_ ABSL_GUARDED_BY(mutex_);
  Id next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<Id, std::pair<absl::Duration, std::function<void()>>> due_ ABSL_GUARDED_BY(mutex_);
};

// Ends members when the test says so, or at once.
class Recorder final : public PoolDelegate {
 public:
  void PauseMember(PoolMemberPtr member) override {
    absl::MutexLock lock(&mutex);
    paused.push_back(member->name());
  }
  void StopMember(PoolMemberPtr member, bool orderly) override {
    {
      absl::MutexLock lock(&mutex);
      stopped.push_back(member->name());
      last_orderly = orderly;
      if (hold) {
        held.push_back(member);
        return;
      }
    }
    pool->Gone(member);
  }
  std::vector<std::string> Stopped() {
    absl::MutexLock lock(&mutex);
    return stopped;
  }
  Pool* pool = nullptr;
  absl::Mutex mutex;
  bool hold = false;
  bool last_orderly ABSL_GUARDED_BY(mutex) = false;
  std::vector<std::string> paused ABSL_GUARDED_BY(mutex);
  std::vector<std::string> stopped ABSL_GUARDED_BY(mutex);
  std::vector<PoolMemberPtr> held ABSL_GUARDED_BY(mutex);
};

struct World {
  explicit World(uint64_t capacity_mib = 400, size_t queue_limit = 8,
                 size_t max_instances = SIZE_MAX) {
    PoolConfig config;
    config.max_instances = max_instances;
    config.capacity_mib = capacity_mib;
    config.overhead_mib = 0;
    config.queue_limit = queue_limit;
    config.queue_wait = absl::Hours(1);
    config.idle_pause = absl::Seconds(1);
    config.idle_stop = absl::Seconds(10);
    pool = std::make_unique<Pool>(config, &delegate, &timers);
    delegate.pool = pool.get();
  }
  absl::StatusOr<PoolGrant> Acquire(const std::string& version, uint64_t memory_mib = 100,
                                    absl::Time deadline = absl::InfiniteFuture(),
                                    const Cancellation& cancellation = Cancellation(),
                                    PoolWish wish = PoolWish::kAny) {
    auto grant = pool->Acquire(
        version, memory_mib,
        [&] { return std::make_shared<Member>(absl::StrCat("i", ++made), version, memory_mib); },
        deadline, cancellation, wish);
    if (grant.ok() && grant->is_new) {
      if (pool->AgentReady(grant->member).ok()) {
        pool->Initialized(grant->member).IgnoreError();
      }
    }
    return grant;
  }
  void AwaitWaiting(size_t count) {
    while (pool->waiting() != count) std::this_thread::yield();
  }
  ManualTimers timers;
  Recorder delegate;
  std::atomic<int> made{0};
  std::unique_ptr<Pool> pool;
};

TEST_CASE("pool: the instance used last serves first") {
  World world;
  auto first = world.Acquire("a");
  auto second = world.Acquire("a");
  REQUIRE((first.ok() && second.ok()));
  world.pool->Release(second->member, true, true);
  world.pool->Release(first->member, true, true);
  auto again = world.Acquire("a");
  CHECK(again->member == first->member);
  CHECK_FALSE(again->is_new);
}

TEST_CASE("pool: a spare instance takes memory that is free, and waits for none nor makes room") {
  World world;
  const auto spare = [&] {
    return world.Acquire("a", 100, absl::InfiniteFuture(), Cancellation(), PoolWish::kSpare);
  };
  const auto idle = world.Acquire("b");
  world.pool->Release(idle->member, true, true);
  std::vector<PoolGrant> grants;
  for (auto grant = spare(); grant.ok(); grant = spare()) {
    CHECK(grant->is_new);
    grants.push_back(*grant);
  }
  CHECK(grants.size() == 3);  // Of four that fit.
  CHECK(absl::IsResourceExhausted(spare().status()));
  CHECK(world.delegate.Stopped().empty());
  CHECK(world.pool->CountOf("a").held == 3);
  CHECK(world.pool->CountOf("a").idle == 0);
  world.pool->Release(grants[0].member, false, true);
  CHECK(world.pool->CountOf("a").held == 2);
  CHECK(world.pool->CountOf("a").idle == 1);
  CHECK(world.pool->CountOf("b").idle == 1);
}

TEST_CASE(
    "pool: no more instances than may be, whatever memory is left; one that idles makes room") {
  World world(400, 8, 2);
  auto first = world.Acquire("a");
  auto second = world.Acquire("a");
  REQUIRE((first.ok() && second.ok()));
  CHECK(absl::IsResourceExhausted(world.Acquire("b", 100, absl::InfinitePast()).status()));
  world.pool->Release(first->member, true, true);
  const auto third = world.Acquire("b");
  REQUIRE(third.ok());
  CHECK(third->is_new);
  CHECK(world.delegate.Stopped() == std::vector<std::string>{first->member->name()});
}

TEST_CASE("pool: what idles is paused, then stopped, and used in between is neither") {
  World world;
  auto grant = world.Acquire("a");
  world.pool->Release(grant->member, true, true);
  world.timers.Advance(absl::Milliseconds(999));
  CHECK(world.pool->StateOf(grant->member) == InstanceState::kIdle);
  world.timers.Advance(absl::Milliseconds(1));
  CHECK(world.pool->StateOf(grant->member) == InstanceState::kPaused);
  auto again = world.Acquire("a");
  CHECK(again->member == grant->member);
  world.timers.Advance(absl::Hours(1));
  CHECK(world.pool->StateOf(grant->member) == InstanceState::kBusy);
  world.pool->Release(grant->member, true, true);
  world.timers.Advance(absl::Seconds(1));
  world.timers.Advance(absl::Seconds(8));
  CHECK(world.pool->StateOf(grant->member) == InstanceState::kPaused);
  world.timers.Advance(absl::Seconds(1));
  CHECK(world.pool->StateOf(grant->member) == InstanceState::kGone);
  CHECK(world.pool->used_mib() == 0);
}

TEST_CASE("pool: when memory is short the longest unused of another version makes room") {
  World world;
  std::vector<PoolGrant> grants;
  for (const char* version : {"a", "b", "c", "d"}) grants.push_back(*world.Acquire(version));
  for (const PoolGrant& grant : grants) world.pool->Release(grant.member, true, true);
  auto big = world.Acquire("e", 200);
  REQUIRE(big.ok());
  CHECK(world.delegate.Stopped() == std::vector<std::string>{"i1", "i2"});
  CHECK(world.Acquire("c")->member == grants[2].member);
}

TEST_CASE("pool: a member that died while it idled is not handed out") {
  World world;
  auto grant = world.Acquire("a");
  SECTION("found when asked for") {
    world.pool->Release(grant->member, true, true);
    static_cast<Member&>(*grant->member).usable_flag = false;
  }
  SECTION("told before") {
    world.pool->Release(grant->member, true, true);
    world.pool->Lost(grant->member);
  }
  SECTION("told while it was busy") {
    world.pool->Lost(grant->member);
    CHECK(world.delegate.Stopped().empty());
    world.pool->Release(grant->member, true, true);
  }
  auto next = world.Acquire("a");
  CHECK(next->is_new);
  CHECK(world.delegate.Stopped() == std::vector<std::string>{"i1"});
}

TEST_CASE("pool: more memory than there is, and a full queue, are refused at once") {
  World world(100, 1);
  CHECK(world.Acquire("a", 101).status().code() == absl::StatusCode::kFailedPrecondition);
  auto grant = world.Acquire("a");
  std::thread waiter([&] { CHECK(world.Acquire("a").ok()); });
  world.AwaitWaiting(1);
  const absl::Status refused = world.Acquire("a").status();
  CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
  CHECK(refused.GetPayload(kRetryInfoPayload).has_value());
  world.pool->Release(grant->member, true, true);
  waiter.join();
}

TEST_CASE("pool: waiting ends at the deadline or when cancelled, and the queue goes on") {
  World world(100);
  auto grant = world.Acquire("a");
  CHECK(world.Acquire("a", 100, absl::InfinitePast()).status().code() ==
        absl::StatusCode::kResourceExhausted);
  Cancellation cancellation;
  absl::Status cancelled;
  std::thread first(
      [&] { cancelled = world.Acquire("b", 100, absl::InfiniteFuture(), cancellation).status(); });
  world.AwaitWaiting(1);
  std::thread second([&] { CHECK(world.Acquire("a")->member == grant->member); });
  world.AwaitWaiting(2);
  cancellation.Cancel();
  first.join();
  CHECK(cancelled.code() == absl::StatusCode::kCancelled);
  world.pool->Release(grant->member, true, true);
  second.join();
}

TEST_CASE("pool: who waits longest is served first, even if room must be made for it") {
  World world(100);
  auto grant = world.Acquire("a");
  std::vector<std::string> order;
  absl::Mutex mutex;
  const auto serve = [&](const std::string& version) {
    auto got = world.Acquire(version);
    REQUIRE(got.ok());
    {
      absl::MutexLock lock(&mutex);
      order.push_back(version);
    }
    world.pool->Release(got->member, true, true);
  };
  std::thread other([&] { serve("b"); });
  world.AwaitWaiting(1);
  std::thread same([&] { serve("a"); });
  world.AwaitWaiting(2);
  world.pool->Release(grant->member, true, true);
  other.join();
  same.join();
  CHECK(order == std::vector<std::string>{"b", "a"});
}

TEST_CASE("pool: memory of an instance that is ending is not given out before it is free") {
  World world(100);
  world.delegate.hold = true;
  auto grant = world.Acquire("a");
  world.pool->Release(grant->member, true, false);
  CHECK(world.pool->used_mib() == 100);
  std::atomic<bool> served{false};
  std::thread waiter([&] {
    CHECK(world.Acquire("b").ok());
    served = true;
  });
  world.AwaitWaiting(1);
  CHECK_FALSE(served);
  world.pool->Gone(grant->member);
  waiter.join();
}

TEST_CASE("pool: drain waits for what is busy, refuses what is new, spares the rest") {
  World world;
  auto busy = world.Acquire("t/versions/1");
  auto idle = world.Acquire("t/versions/1");
  auto other = world.Acquire("t/versions/10");
  world.pool->Release(idle->member, true, true);
  world.pool->Release(other->member, true, true);
  std::thread drainer([&] { world.pool->Drain("t/versions/1", false); });
  while (world.pool->StateOf(idle->member) != InstanceState::kGone) std::this_thread::yield();
  CHECK(world.Acquire("t/versions/1").status().code() == absl::StatusCode::kUnavailable);
  CHECK(world.pool->StateOf(busy->member) == InstanceState::kBusy);
  world.pool->Release(busy->member, true, true);
  drainer.join();
  CHECK(world.pool->StateOf(busy->member) == InstanceState::kGone);
  CHECK(world.pool->StateOf(other->member) == InstanceState::kIdle);
  CHECK(world.Acquire("t/versions/1").ok());
}

TEST_CASE("pool: a drain that nobody waits for says when it is done, and refuses until then") {
  World world;
  auto busy = world.Acquire("t/versions/1");
  int done = 0;
  world.pool->BeginDrain("t/versions/1", false, [&] { ++done; });
  world.pool->BeginDrain("t/versions/2", false, [&] { done += 10; });
  CHECK(done == 10);  // There was none.
  CHECK(world.Acquire("t/versions/2").ok());
  CHECK(world.Acquire("t/versions/1").status().code() == absl::StatusCode::kUnavailable);
  world.pool->Release(busy->member, true, true);
  CHECK(world.pool->StateOf(busy->member) == InstanceState::kGone);
  CHECK(done == 11);
  CHECK(world.Acquire("t/versions/1").ok());
}

TEST_CASE("pool: a forced drain ends what is busy, and what is booting learns of it") {
  World world;
  auto booting = world.pool->Acquire(
      "a", 100, [&] { return std::make_shared<Member>("booting", "a", 100); },
      absl::InfiniteFuture(), Cancellation());
  auto busy = world.Acquire("a");
  world.pool->Drain("a", true);
  CHECK_FALSE(world.pool->AgentReady(booting->member).ok());
  world.pool->Release(booting->member, false, true);
  world.pool->Release(busy->member, true, true);
  CHECK(world.pool->List().empty());
  CHECK(world.pool->used_mib() == 0);
}

TEST_CASE("pool: many threads and versions leave the books balanced") {
  World world(300, 64);
  std::atomic<int> served{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        auto grant = world.Acquire(absl::StrCat("v", (i + round) % 5));
        if (!grant.ok()) continue;
        if (round % 7 == 0) world.pool->Lost(grant->member);
        world.pool->Release(grant->member, true, round % 11 != 0);
        ++served;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(served == 16 * 200);
  CHECK(world.pool->used_mib() <= 300);
  world.pool->Drain("", false);
  CHECK(world.pool->used_mib() == 0);
}

TEST_CASE("timers: callbacks run in the order of their times, cancelled ones do not") {
  ThreadTimers timers;
  absl::Mutex mutex;
  std::vector<int> order;
  const auto add = [&](absl::Duration delay, int value) {
    return timers.After(delay, [&, value] {
      absl::MutexLock lock(&mutex);
      order.push_back(value);
    });
  };
  add(absl::Milliseconds(20), 2);
  add(absl::Milliseconds(10), 1);
  timers.Cancel(add(absl::Milliseconds(15), 9));
  timers.After(absl::InfiniteDuration(), [] {});
  absl::MutexLock lock(&mutex);
  const auto done = [&] { return order.size() == 2; };
  mutex.Await(absl::Condition(&done));
  CHECK(order == std::vector<int>{1, 2});
}

}  // namespace
}  // namespace hearth::control
