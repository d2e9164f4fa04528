// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// A few threads for what blocks and nobody waits for: pausing and ending instances. Thread-safe.
class TaskPool {
 public:
  explicit TaskPool(int threads);
  ~TaskPool() { Stop(); }
  void Add(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Runs what was added before, what that adds included, and joins the threads.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace hearth::control
