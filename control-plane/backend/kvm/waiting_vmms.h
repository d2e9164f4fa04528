// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/backend/kvm/vmm_process.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

// VMM processes spawned ahead of demand, by a thread of its own: nobody waits for it. Thread-safe.
// Destroyed, it ends them all.
class WaitingVmms {
 public:
  using Spawner = std::function<absl::StatusOr<std::shared_ptr<VmmProcess>>()>;

  // `answer_timeout` as in VmmProcess::EndByForce().
  WaitingVmms(Spawner spawner, absl::Duration answer_timeout);
  ~WaitingVmms();
  WaitingVmms(const WaitingVmms&) = delete;
  WaitingVmms& operator=(const WaitingVmms&) = delete;

  // How many are to wait, from now on; those over it are ended.
  void SetTarget(size_t count) ABSL_LOCKS_EXCLUDED(mutex_);
  // The one that has waited longest, or null. Another takes its place in the background, shortly
  // after: the machine that is made of this one starts first.
  std::shared_ptr<VmmProcess> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  size_t count() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const Spawner spawner_;
  const absl::Duration answer_timeout_;
  mutable absl::Mutex mutex_;
  SteadyCondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  size_t target_ ABSL_GUARDED_BY(mutex_) = 0;
  // When the successors of those that were taken last are to be spawned.
  std::deque<absl::Time> successors_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<VmmProcess>> waiting_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace hearth::control
