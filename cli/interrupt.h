// SPDX-License-Identifier: Apache-2.0
// SIGINT and SIGTERM end what is under way, orderly.
#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace hearth::cli {

// Runs the actions that are registered when a signal comes; main feeds it from a thread that waits
// for signals. Any thread.
class Interrupt {
 public:
  // While it lives, `action` is run at a signal, on another thread; at once when one came before.
  class Scope {
   public:
    Scope(Interrupt* interrupt, std::function<void()> action);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupt* const interrupt_;
    std::function<void()> previous_;
  };

  // False when there was no action: nothing is under way that would have to be ended in order.
  bool Raise() ABSL_LOCKS_EXCLUDED(mutex_);
  bool raised() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks SIGINT and SIGTERM in this thread and those it starts later, and starts the thread that
  // takes them. Where no action is registered, and at the second signal, the process ends at once.
  // Call first in main.
  void WatchSignals();

 private:
  mutable absl::Mutex mutex_;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::cli
