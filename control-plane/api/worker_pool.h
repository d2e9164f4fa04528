// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"

namespace hearth::control {

// Runs tasks that may block, on at most so many threads, made when first needed. Thread-safe.
class WorkerPool {
 public:
  // Beyond `max_threads` tasks under way, `max_queued` more may wait.
  WorkerPool(size_t max_threads, size_t max_queued)
      : max_threads_(max_threads), max_queued_(max_queued) {}
  // Runs what was taken, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Room for one task, given back when it goes without one. Goes before the pool.
  class Place {
   public:
    Place(Place&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)) {}
    Place& operator=(Place&& other) noexcept {
      std::swap(pool_, other.pool_);
      return *this;
    }
    ~Place();
    void Submit(std::function<void()> task) &&;

   private:
    friend class WorkerPool;
    explicit Place(WorkerPool* pool) : pool_(pool) {}
    WorkerPool* pool_;
  };

  // For who must know that a task will be taken before there can be one. None: full.
  absl::optional<Place> Reserve() ABSL_LOCKS_EXCLUDED(mutex_);
  // False: full, and the task was not taken.
  [[nodiscard]] bool TrySubmit(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Take(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveBack() ABSL_LOCKS_EXCLUDED(mutex_);
  void Work() ABSL_LOCKS_EXCLUDED(mutex_);

  const size_t max_threads_;
  const size_t max_queued_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  size_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;  // Places: of tasks, until they end, and empty.
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
