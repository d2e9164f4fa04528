// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/background_builds.h"

#include <algorithm>
#include <utility>

namespace hearth::control {

BackgroundBuilds::BackgroundBuilds(int threads, Build build) : build_(std::move(build)) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

void BackgroundBuilds::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    queue_.clear();
    for (auto& [id, running] : running_) running.cancellation.Cancel();
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void BackgroundBuilds::Add(VersionPtr version) {
  absl::MutexLock lock(&mutex_);
  const auto waits = std::find_if(queue_.begin(), queue_.end(), [&](const VersionPtr& queued) {
    return queued->name == version->name;
  });
  if (waits != queue_.end()) {
    *waits = std::move(version);  // Its images may be newer.
  } else if (!stopping_) {
    queue_.push_back(std::move(version));
    changed_.SignalAll();
  }
}

bool BackgroundBuilds::IsRunning(const std::string& version) const {
  return std::any_of(running_.begin(), running_.end(),
                     [&](const auto& entry) { return entry.second.version == version; });
}

void BackgroundBuilds::Cancel(const std::function<bool(const std::string&)>& below) {
  absl::MutexLock lock(&mutex_);
  const auto removed = std::remove_if(queue_.begin(), queue_.end(), [&](const VersionPtr& version) {
    return below(version->name);
  });
  queue_.erase(removed, queue_.end());
  for (auto& [id, running] : running_) {
    if (below(running.version)) running.cancellation.Cancel();
  }
  const uint64_t begun = next_;
  while (std::any_of(running_.begin(), running_.end(), [&](const auto& entry) {
    return entry.first < begun && below(entry.second.version);
  })) {
    changed_.Wait(&mutex_);
  }
}

void BackgroundBuilds::Await() {
  absl::MutexLock lock(&mutex_);
  while (!queue_.empty() || !running_.empty()) changed_.Wait(&mutex_);
}

void BackgroundBuilds::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const auto next = std::find_if(queue_.begin(), queue_.end(), [&](const VersionPtr& version) {
      mutex_.AssertHeld();
      return !IsRunning(version->name);
    });
    if (next == queue_.end()) {
      if (stopping_) return;
      changed_.Wait(&mutex_);
      continue;
    }
    const VersionPtr version = std::move(*next);
    queue_.erase(next);
    const uint64_t id = next_++;
    const Cancellation cancellation;
    running_[id] = {version->name, cancellation};
    mutex_.Unlock();
    build_(version, cancellation);
    mutex_.Lock();
    running_.erase(id);
    changed_.SignalAll();
  }
}

}  // namespace hearth::control
