// SPDX-License-Identifier: Apache-2.0
#include "control-plane/pool/pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "control-plane/node/node.h"
#include "google/rpc/error_details.pb.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// What a caller who was turned away is told to wait; most invocations are shorter.
constexpr int64_t kRetryDelaySeconds = 1;

void RunAll(const std::vector<std::function<void()>>& actions) {
  for (const auto& action : actions) action();
}

}  // namespace

bool IsBelow(absl::string_view version, absl::string_view prefix) {
  if (!absl::StartsWith(version, prefix)) return false;
  return prefix.empty() || version.size() == prefix.size() || absl::EndsWith(prefix, "/") ||
         version[prefix.size()] == '/';
}

absl::Status Pool::Busy(absl::string_view why) const {
  absl::Status status = absl::ResourceExhaustedError(why);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetryDelaySeconds);
  status.SetPayload(kRetryInfoPayload, absl::Cord(retry.SerializeAsString()));
  return status;
}

bool Pool::IsDraining(absl::string_view version) const {
  return std::any_of(draining_.begin(), draining_.end(),
                     [&](const Draining& drain) { return IsBelow(version, drain.prefix); });
}

void Pool::Move(PoolMember& member, InstanceEvent event) {
  // Every caller has looked at the state under the same lock.
  const absl::StatusOr<InstanceState> next = Transition(member.state_, event);
  ABSL_ASSERT(next.ok());
  if (next.ok()) member.state_ = *next;
}

void Pool::LeaveIdle(const PoolMemberPtr& member) {
  idle_.remove(member);
  if (member->idle_timer_ != 0) timers_->Cancel(std::exchange(member->idle_timer_, 0));
}

void Pool::Stop(const PoolMemberPtr& member, bool orderly, Actions* actions) {
  if (member->state_ == InstanceState::kStopping || member->state_ == InstanceState::kGone) return;
  LeaveIdle(member);
  Move(*member, InstanceEvent::kStop);
  stopping_mib_ += CostOf(member->memory_mib());
  ++stopping_;
  actions->push_back([this, member, orderly] { delegate_->StopMember(member, orderly); });
}

void Pool::Pause(const PoolMemberPtr& member, Actions* actions) {
  Move(*member, InstanceEvent::kPaused);
  actions->push_back([this, member] { delegate_->PauseMember(member); });
}

void Pool::ArmIdleTimer(const PoolMemberPtr& member, absl::Duration delay) {
  // The id is known only after the timer is set, and it may fire before: the lock keeps it waiting.
  auto id = std::make_shared<Timers::Id>(0);
  *id = timers_->After(delay, [this, id, weak = std::weak_ptr<PoolMember>(member)] {
    PoolMemberPtr alive = weak.lock();
    if (!alive) return;
    Timers::Id fired;
    {
      absl::MutexLock lock(&mutex_);
      fired = *id;
    }
    IdleTimerFired(alive, fired);
  });
  member->idle_timer_ = *id;
}

void Pool::IdleTimerFired(const PoolMemberPtr& member, Timers::Id id) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    if (member->idle_timer_ != id) return;  // It was used since.
    member->idle_timer_ = 0;
    if (member->state_ == InstanceState::kIdle && config_.idle_pause < config_.idle_stop) {
      Pause(member, &actions);
      ArmIdleTimer(member, config_.idle_stop - config_.idle_pause);
    } else {
      Stop(member, true, &actions);
    }
  }
  RunAll(actions);
}

void Pool::BecomeIdle(const PoolMemberPtr& member, Actions* actions) {
  if (member->stop_when_released_ || !member->usable() || IsDraining(member->version())) {
    Stop(member, member->usable(), actions);
    return;
  }
  idle_.push_back(member);
  ArmIdleTimer(member, std::min(config_.idle_pause, config_.idle_stop));
}

bool Pool::GrantIdle(Waiter& waiter, Actions* actions) {
  for (auto it = idle_.rbegin(); it != idle_.rend();) {
    PoolMemberPtr member = *it++;
    if (member->version() != *waiter.version) continue;
    if (!member->usable()) {
      Stop(member, false, actions);
      return GrantIdle(waiter, actions);  // The list has changed.
    }
    LeaveIdle(member);
    Move(*member, InstanceEvent::kReserved);
    waiter.grant.member = std::move(member);
    return true;
  }
  return false;
}

bool Pool::Fits(uint64_t cost_mib, uint64_t used_mib, size_t instances) const {
  return used_mib + cost_mib <= config_.capacity_mib && instances < config_.max_instances;
}

bool Pool::GrantNew(Waiter& waiter) {
  if (!Fits(waiter.cost_mib, used_mib_, members_.size())) return false;
  waiter.grant.member = (*waiter.factory)();
  waiter.grant.is_new = true;
  members_.insert(waiter.grant.member);
  used_mib_ += waiter.cost_mib;
  return true;
}

void Pool::MakeRoom(uint64_t cost_mib, Actions* actions) {
  // The longest unused go first, and no more than are needed besides those that are ending already.
  while (!Fits(cost_mib, used_mib_ - stopping_mib_, members_.size() - stopping_) &&
         !idle_.empty()) {
    Stop(PoolMemberPtr(idle_.front()), false, actions);
  }
}

void Pool::Dispatch(Actions* actions) {
  // The first that cannot be served keeps those behind it from new instances, and gets what idles
  // until it has room; then idle instances of their own versions serve those behind it.
  bool memory_is_spoken_for = false;
  for (auto it = queue_.begin(); it != queue_.end();) {
    Waiter& waiter = **it;
    bool granted = waiter.wish == PoolWish::kAny && GrantIdle(waiter, actions);
    if (!granted && !memory_is_spoken_for) {
      granted = GrantNew(waiter);
      if (!granted) {
        MakeRoom(waiter.cost_mib, actions);
        memory_is_spoken_for = true;
      }
    }
    if (granted) {
      waiter.changed.Signal();
      it = queue_.erase(it);
    } else {
      ++it;
    }
  }
}

absl::StatusOr<PoolGrant> Pool::Acquire(const std::string& version, uint64_t memory_mib,
                                        const Factory& factory, absl::Time deadline,
                                        const Cancellation& cancellation, PoolWish wish) {
  Waiter waiter{&version, CostOf(memory_mib), &factory, wish, {}, absl::OkStatus(), {}};
  if (waiter.cost_mib > config_.capacity_mib) {
    return absl::FailedPreconditionError(
        absl::StrCat("an instance with ", memory_mib, " MiB does not fit into the ",
                     config_.capacity_mib, " MiB that this node has for functions"));
  }
  Actions actions;
  bool waits = false;  // While it does, other threads write to `waiter`, under the lock.
  {
    absl::MutexLock lock(&mutex_);
    if (IsDraining(version)) return absl::UnavailableError("the version is being drained");
    if (wish == PoolWish::kSpare) {
      if (!queue_.empty() || !GrantNew(waiter)) return Busy("no memory to spare");
      return Settle(waiter);
    }
    queue_.push_back(&waiter);
    Dispatch(&actions);
    if (!waiter.grant.member && queue_.size() > config_.queue_limit) {
      queue_.remove(&waiter);
      waiter.refused = Busy(absl::StrCat("this node has no room for another instance and ",
                                         config_.queue_limit, " invocations wait already"));
    }
    waits = !waiter.grant.member && waiter.refused.ok();
  }
  RunAll(actions);
  if (!waits) return Settle(waiter);

  deadline = std::min(deadline, SteadyNow() + config_.queue_wait);
  bool cancelled = false;
  const Cancellation::Registration registration = cancellation.OnCancel([&] {
    absl::MutexLock lock(&mutex_);
    cancelled = true;
    waiter.changed.Signal();
  });
  actions.clear();
  {
    absl::MutexLock lock(&mutex_);
    while (!waiter.grant.member && waiter.refused.ok() && !cancelled) {
      if (!waiter.changed.WaitWithDeadline(&mutex_, deadline)) continue;
      if (!waiter.grant.member && waiter.refused.ok()) {
        waiter.refused = Busy("no room and no instance became free in time");
      }
    }
    queue_.remove(&waiter);
    Dispatch(&actions);  // Those behind it may be served now.
  }
  RunAll(actions);
  return Settle(waiter);
}

absl::StatusOr<PoolGrant> Pool::Settle(Waiter& waiter) {
  if (waiter.grant.member) return std::move(waiter.grant);
  if (!waiter.refused.ok()) return waiter.refused;
  return absl::CancelledError("cancelled while waiting for an instance");
}

absl::Status Pool::AgentReady(const PoolMemberPtr& member) {
  absl::MutexLock lock(&mutex_);
  absl::StatusOr<InstanceState> next = Transition(member->state_, InstanceEvent::kAgentReady);
  if (next.ok()) member->state_ = *next;
  return next.status();
}

absl::Status Pool::Initialized(const PoolMemberPtr& member) {
  absl::MutexLock lock(&mutex_);
  absl::StatusOr<InstanceState> next = Transition(member->state_, InstanceEvent::kInitialized);
  if (next.ok()) next = Transition(*next, InstanceEvent::kReserved);
  if (next.ok()) member->state_ = *next;
  return next.status();
}

void Pool::Release(const PoolMemberPtr& member, bool served, bool reusable) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    if (served) ++member->served_;
    if (!reusable) member->stop_when_released_ = true;
    if (member->state_ == InstanceState::kBusy) {
      Move(*member, InstanceEvent::kReleased);
      BecomeIdle(member, &actions);
    } else {
      // Its start failed. (Stopped already: no-op.)
      Stop(member, false, &actions);
    }
    Dispatch(&actions);
  }
  RunAll(actions);
}

void Pool::Lost(const PoolMemberPtr& member) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    member->stop_when_released_ = true;
    if (member->state_ == InstanceState::kIdle || member->state_ == InstanceState::kPaused) {
      Stop(member, false, &actions);
    }
  }
  RunAll(actions);
}

void Pool::Gone(const PoolMemberPtr& member) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    if (members_.erase(member) == 0) return;
    Move(*member, InstanceEvent::kGone);
    used_mib_ -= CostOf(member->memory_mib());
    stopping_mib_ -= CostOf(member->memory_mib());
    --stopping_;
    Dispatch(&actions);
    EndDrains(&actions);
    gone_.SignalAll();
  }
  RunAll(actions);
}

void Pool::Retire(const std::function<bool(const PoolMember&)>& retires) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    for (const PoolMemberPtr& member : members_) {
      if (!retires(*member)) continue;
      member->stop_when_released_ = true;
      const bool idles =
          member->state_ == InstanceState::kIdle || member->state_ == InstanceState::kPaused;
      if (idles) Stop(member, true, &actions);
    }
    Dispatch(&actions);
  }
  RunAll(actions);
}

void Pool::AwaitGone(const PoolMemberPtr& member) {
  absl::MutexLock lock(&mutex_);
  while (members_.count(member) != 0) gone_.Wait(&mutex_);
}

void Pool::StopBelow(const std::string& prefix, bool force, Actions* actions) {
  for (Waiter* waiter : queue_) {
    if (!IsBelow(*waiter->version, prefix)) continue;
    waiter->refused = absl::UnavailableError("the version is being drained");
    waiter->changed.Signal();
  }
  queue_.remove_if([](const Waiter* waiter) { return !waiter->refused.ok(); });
  for (const PoolMemberPtr& member : members_) {
    if (!IsBelow(member->version(), prefix)) continue;
    const bool held =
        member->state_ != InstanceState::kIdle && member->state_ != InstanceState::kPaused;
    if (held && !force) {
      member->stop_when_released_ = true;
    } else {
      Stop(member, !force, actions);
    }
  }
  Dispatch(actions);
}

void Pool::EndDrains(Actions* actions) {
  for (auto drain = draining_.begin(); drain != draining_.end();) {
    const bool under_way =
        drain->done == nullptr ||
        std::any_of(members_.begin(), members_.end(), [&](const PoolMemberPtr& member) {
          return IsBelow(member->version(), drain->prefix);
        });
    if (under_way) {
      ++drain;
      continue;
    }
    actions->push_back(std::move(drain->done));
    drain = draining_.erase(drain);
  }
}

void Pool::BeginDrain(const std::string& prefix, bool force, std::function<void()> done) {
  Actions actions;
  {
    absl::MutexLock lock(&mutex_);
    draining_.push_back({prefix, std::move(done)});
    StopBelow(prefix, force, &actions);
    EndDrains(&actions);
  }
  RunAll(actions);
}

void Pool::Drain(const std::string& prefix, bool force) {
  absl::Notification gone;
  BeginDrain(prefix, force, [&gone] { gone.Notify(); });
  gone.WaitForNotification();
}

void Pool::Close() {
  {
    absl::MutexLock lock(&mutex_);
    draining_.push_back({"", nullptr});
  }
  Drain("", true);
}

InstanceState Pool::StateOf(const PoolMemberPtr& member) const {
  absl::MutexLock lock(&mutex_);
  return member->state_;
}

PoolCount Pool::CountOf(const std::string& version) const {
  absl::MutexLock lock(&mutex_);
  PoolCount count;
  for (const PoolMemberPtr& member : members_) {
    if (member->version() != version) continue;
    switch (member->state_) {
      case InstanceState::kIdle:
      case InstanceState::kPaused:
        ++count.idle;
        break;
      case InstanceState::kStopping:
      case InstanceState::kGone:
        break;
      default:
        ++count.held;
    }
  }
  return count;
}

std::vector<PoolEntry> Pool::List() const {
  absl::MutexLock lock(&mutex_);
  std::vector<PoolEntry> entries;
  entries.reserve(members_.size());
  for (const PoolMemberPtr& member : members_) {
    entries.push_back({member, member->state_, member->served_});
  }
  return entries;
}

uint64_t Pool::used_mib() const {
  absl::MutexLock lock(&mutex_);
  return used_mib_;
}

size_t Pool::waiting() const {
  absl::MutexLock lock(&mutex_);
  return queue_.size();
}

}  // namespace hearth::control
