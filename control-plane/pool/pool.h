// SPDX-License-Identifier: Apache-2.0
// Which invocation gets which instance: warm reuse, admission by memory, a bounded queue in order
// of arrival, and the end of what idles. It knows nothing of machines; its delegate does.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/pool/instance_state.h"
#include "control-plane/pool/timers.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

struct PoolConfig {
  uint64_t capacity_mib = 0;
  uint64_t overhead_mib = 0;  // Of each instance, beside its guest's memory.
  size_t max_instances = SIZE_MAX;
  size_t queue_limit = 0;
  absl::Duration queue_wait;
  absl::Duration idle_pause;
  absl::Duration idle_stop;
};

// An instance as the pool sees it; the node derives its own. The pool's fields belong to the pool.
class PoolMember {
 public:
  PoolMember(std::string name, std::string version, uint64_t memory_mib)
      : name_(std::move(name)), version_(std::move(version)), memory_mib_(memory_mib) {}
  virtual ~PoolMember() = default;

  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  uint64_t memory_mib() const { return memory_mib_; }

  // False once it cannot serve any more. Called with the pool's lock held: must not lock.
  virtual bool usable() const = 0;

 private:
  friend class Pool;
  const std::string name_;
  const std::string version_;
  const uint64_t memory_mib_;
  // Guarded by the pool's mutex.
  InstanceState state_ = InstanceState::kBooting;
  bool stop_when_released_ = false;
  uint64_t served_ = 0;
  Timers::Id idle_timer_ = 0;
};
using PoolMemberPtr = std::shared_ptr<PoolMember>;

// Called without the pool's lock, on whatever thread caused it, so it must not block.
class PoolDelegate {
 public:
  virtual ~PoolDelegate() = default;
  // The member is PAUSED from now on; it may be BUSY again before the call arrives.
  virtual void PauseMember(PoolMemberPtr member) = 0;
  // The member is STOPPING; Pool::Gone() is to follow when its memory is free.
  virtual void StopMember(PoolMemberPtr member, bool orderly) = 0;
};

enum class PoolWish {
  kAny,    // What idles, else a new one; waits for either.
  kFresh,  // A new one; waits for memory.
  kSpare,  // A new one if there is memory that nobody wants now: neither waits nor makes room.
};

struct PoolCount {
  size_t held = 0;  // Made or used by somebody.
  size_t idle = 0;
};

struct PoolGrant {
  PoolMemberPtr member;
  bool is_new = false;  // BOOTING, to be made by the caller; else BUSY.
};

struct PoolEntry {
  PoolMemberPtr member;
  InstanceState state;
  uint64_t served = 0;
};

// Whether `version` is `prefix` or lies below it, so that ".../versions/1" spares
// ".../versions/10".
bool IsBelow(absl::string_view version, absl::string_view prefix);

// Thread-safe.
class Pool {
 public:
  using Factory = std::function<PoolMemberPtr()>;

  // `delegate` and `timers` outlive the pool; `timers` runs no callback any more when it goes.
  Pool(PoolConfig config, PoolDelegate* delegate, Timers* timers)
      : config_(config), delegate_(delegate), timers_(timers) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // An instance of `version` that idles, the most recently used first; else a new one when there is
  // memory; else waits for either, until `deadline` (of SteadyNow()). `wish` may want less.
  // `factory` is called with the pool's lock held.
  //   RESOURCE_EXHAUSTED   the queue is full, or the wait was too long; carries a RetryInfo
  //   FAILED_PRECONDITION  it needs more memory than there is
  //   UNAVAILABLE          the version is being drained
  //   CANCELLED
  absl::StatusOr<PoolGrant> Acquire(const std::string& version, uint64_t memory_mib,
                                    const Factory& factory, absl::Time deadline,
                                    const Cancellation& cancellation,
                                    PoolWish wish = PoolWish::kAny) ABSL_LOCKS_EXCLUDED(mutex_);

  // What the caller of Acquire() reports of a new member; Initialized() makes it BUSY. An error
  // means that the member was stopped meanwhile.
  absl::Status AgentReady(const PoolMemberPtr& member) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Initialized(const PoolMemberPtr& member) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the hold that Acquire() gave. Not usable or `reusable` false: the member is stopped.
  void Release(const PoolMemberPtr& member, bool served, bool reusable) ABSL_LOCKS_EXCLUDED(mutex_);
  // A member cannot serve any more. Stopped at once if nobody holds it, else when released.
  void Lost(const PoolMemberPtr& member) ABSL_LOCKS_EXCLUDED(mutex_);
  // A stopped member's memory is free.
  void Gone(const PoolMemberPtr& member) ABSL_LOCKS_EXCLUDED(mutex_);

  // Stops the members that `retires` wants to go: those that idle at once, the others when they are
  // released. `retires` is called with the pool's lock held.
  void Retire(const std::function<bool(const PoolMember&)>& retires) ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits until Gone() was called for a member that was stopped.
  void AwaitGone(const PoolMemberPtr& member) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends all members whose version is `prefix` or below it, once they are not held, or at once when
  // `force`, and refuses new ones until they are gone. Then calls `done`, once, without the pool's
  // lock, on whatever thread.
  void BeginDrain(const std::string& prefix, bool force, std::function<void()> done)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The same, and waits until they are gone.
  void Drain(const std::string& prefix, bool force) ABSL_LOCKS_EXCLUDED(mutex_);
  // Drain of everything, for good.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);

  InstanceState StateOf(const PoolMemberPtr& member) const ABSL_LOCKS_EXCLUDED(mutex_);
  PoolCount CountOf(const std::string& version) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<PoolEntry> List() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t used_mib() const ABSL_LOCKS_EXCLUDED(mutex_);
  size_t waiting() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Waiter {
    const std::string* version;
    uint64_t cost_mib;
    const Factory* factory;
    PoolWish wish;
    PoolGrant grant;
    absl::Status refused;
    SteadyCondVar changed;
  };
  struct Draining {
    std::string prefix;
    std::function<void()> done;  // None: for good.
  };
  // To be run when the lock is released.
  using Actions = std::vector<std::function<void()>>;

  uint64_t CostOf(uint64_t memory_mib) const { return memory_mib + config_.overhead_mib; }
  bool IsDraining(absl::string_view version) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Move(PoolMember& member, InstanceEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveIdle(const PoolMemberPtr& member) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BecomeIdle(const PoolMemberPtr& member, Actions* actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Stop(const PoolMemberPtr& member, bool orderly, Actions* actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Pause(const PoolMemberPtr& member, Actions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool GrantIdle(Waiter& waiter, Actions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Fits(uint64_t cost_mib, uint64_t used_mib, size_t instances) const;
  bool GrantNew(Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeRoom(uint64_t cost_mib, Actions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Dispatch(Actions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopBelow(const std::string& prefix, bool force, Actions* actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndDrains(Actions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void IdleTimerFired(const PoolMemberPtr& member, Timers::Id id) ABSL_LOCKS_EXCLUDED(mutex_);
  void ArmIdleTimer(const PoolMemberPtr& member, absl::Duration delay)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What became of a waiter that has left the queue.
  static absl::StatusOr<PoolGrant> Settle(Waiter& waiter);
  absl::Status Busy(absl::string_view why) const;

  const PoolConfig config_;
  PoolDelegate* const delegate_;
  Timers* const timers_;

  mutable absl::Mutex mutex_;
  uint64_t used_mib_ ABSL_GUARDED_BY(mutex_) = 0;      // Of all members.
  uint64_t stopping_mib_ ABSL_GUARDED_BY(mutex_) = 0;  // Of those that are STOPPING,
  size_t stopping_ ABSL_GUARDED_BY(mutex_) = 0;        // of which there are so many.
  std::set<PoolMemberPtr> members_ ABSL_GUARDED_BY(mutex_);
  std::list<PoolMemberPtr> idle_ ABSL_GUARDED_BY(mutex_);  // IDLE and PAUSED, last used at the end.
  std::list<Waiter*> queue_ ABSL_GUARDED_BY(mutex_);       // In order of arrival.
  std::list<Draining> draining_ ABSL_GUARDED_BY(mutex_);
  mutable absl::CondVar gone_;
};

}  // namespace hearth::control
