// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/node/node.h"

namespace hearth::control {

// Makes what nobody waits for, snapshots or instances ahead of demand: each version's once at a
// time, a few at once, in the order in which they were asked for. Thread-safe.
class BackgroundBuilds {
 public:
  using Build = std::function<void(const VersionPtr& version, const Cancellation& cancellation)>;

  BackgroundBuilds(int threads, Build build);
  ~BackgroundBuilds() { Stop(); }
  BackgroundBuilds(const BackgroundBuilds&) = delete;
  BackgroundBuilds& operator=(const BackgroundBuilds&) = delete;

  // No-op when the version waits already; one that is being built is built once more.
  void Add(VersionPtr version) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes those for which `below` holds from the queue, and cancels and awaits those under way.
  void Cancel(const std::function<bool(const std::string& version)>& below)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels what is under way and waits for it; what is added later is dropped.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until nothing is left to do.
  void Await() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Running {
    std::string version;
    Cancellation cancellation;
  };
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsRunning(const std::string& version) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Build build_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<VersionPtr> queue_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Running> running_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<std::thread> threads_;
};

}  // namespace hearth::control
