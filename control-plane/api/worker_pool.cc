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

absl::optional<WorkerPool::Place> WorkerPool::Reserve() {
  absl::MutexLock lock(&mutex_);
  if (closing_ || under_way_ >= max_threads_ + max_queued_) return absl::nullopt;
  ++under_way_;
  return Place(this);
}

bool WorkerPool::TrySubmit(std::function<void()> task) {
  absl::optional<Place> place = Reserve();
  if (!place.has_value()) return false;
  std::move(*place).Submit(std::move(task));
  return true;
}

void WorkerPool::Place::Submit(std::function<void()> task) && {
  std::exchange(pool_, nullptr)->Take(std::move(task));
}

WorkerPool::Place::~Place() {
  if (pool_ != nullptr) pool_->GiveBack();
}

void WorkerPool::Take(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (under_way_ > threads_.size() && threads_.size() < max_threads_) {
    threads_.emplace_back([this] { Work(); });
  }
  tasks_.push_back(std::move(task));
}

void WorkerPool::GiveBack() {
  absl::MutexLock lock(&mutex_);
  --under_way_;
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
