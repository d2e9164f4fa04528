// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/worker_pool.h"

namespace hearth::control {

WorkerPool::~WorkerPool() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

bool WorkerPool::TrySubmit(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (closing_ || under_way_ >= max_threads_ + max_queued_) return false;
  if (under_way_ >= threads_.size() && threads_.size() < max_threads_) {
    threads_.emplace_back([this] { Work(); });
  }
  ++under_way_;
  tasks_.push_back(std::move(task));
  return true;
}

void WorkerPool::Work() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return closing_ || !tasks_.empty();
    };
    mutex_.Await(absl::Condition(&due));
    if (tasks_.empty()) return;
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    mutex_.Unlock();
    task();
    task = nullptr;  // What it holds is let go before it counts as done.
    mutex_.Lock();
    --under_way_;
  }
}

}  // namespace hearth::control
