// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/waiting_vmms.h"

#include <algorithm>
#include <utility>

#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

constexpr absl::Duration kFirstSpawnBackOff = absl::Milliseconds(200);
constexpr absl::Duration kLongestSpawnBackOff = absl::Seconds(10);
// Spawning one is as much work as restoring a machine, so on a busy host it would lengthen the
// start that took the last one. As many wait as a second asks for: they last that long.
constexpr absl::Duration kSpawnDelay = absl::Milliseconds(250);

}  // namespace

WaitingVmms::WaitingVmms(Spawner spawner, absl::Duration answer_timeout)
    : spawner_(std::move(spawner)), answer_timeout_(answer_timeout), thread_([this] { Run(); }) {}

WaitingVmms::~WaitingVmms() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
  for (const auto& process : waiting_) process->EndByForce(answer_timeout_);
}

void WaitingVmms::SetTarget(size_t count) {
  absl::MutexLock lock(&mutex_);
  if (target_ == count) return;
  target_ = count;
  changed_.SignalAll();
}

std::shared_ptr<VmmProcess> WaitingVmms::Take() {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<VmmProcess> taken;
  while (!taken && !waiting_.empty()) {
    if (waiting_.front()->alive()) taken = std::move(waiting_.front());
    waiting_.pop_front();
  }
  if (taken) successors_.push_back(SteadyNow() + kSpawnDelay);
  changed_.SignalAll();
  return taken;
}

size_t WaitingVmms::count() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.size();
}

void WaitingVmms::Run() {
  absl::Duration back_off = kFirstSpawnBackOff;
  while (true) {
    std::shared_ptr<VmmProcess> surplus;
    {
      absl::MutexLock lock(&mutex_);
      while (!stopping_ && waiting_.size() == target_) changed_.Wait(&mutex_);
      if (stopping_) return;
      const absl::Time now = SteadyNow();
      while (!successors_.empty() && successors_.front() <= now) successors_.pop_front();
      if (waiting_.size() < target_ && target_ - waiting_.size() <= successors_.size()) {
        changed_.WaitWithDeadline(&mutex_, successors_.front());
        continue;
      }
      if (waiting_.size() > target_) {
        surplus = std::move(waiting_.back());
        waiting_.pop_back();
      }
    }
    if (surplus) {
      surplus->EndByForce(answer_timeout_);
      continue;
    }
    absl::StatusOr<std::shared_ptr<VmmProcess>> spawned = spawner_();
    absl::MutexLock lock(&mutex_);
    if (spawned.ok()) {
      waiting_.push_back(*std::move(spawned));
      back_off = kFirstSpawnBackOff;
    } else if (!stopping_) {
      // Whoever needs one spawns it on its own and hears why that fails.
      changed_.WaitWithDeadline(&mutex_, SteadyNow() + back_off);
      back_off = std::min(back_off * 2, kLongestSpawnBackOff);
    }
  }
}

}  // namespace hearth::control
