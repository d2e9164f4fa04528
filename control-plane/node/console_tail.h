// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// Keeps the last words of a guest's console, which tell why it did not boot. Thread-safe.
class ConsoleTail : public std::enable_shared_from_this<ConsoleTail> {
 public:
  // `write_end` receives what the machine is given as its console.
  static absl::StatusOr<std::shared_ptr<ConsoleTail>> Start(EventLoop* loop, UniqueFd* write_end);

  // The last lines, sanitised: the guest wrote them.
  std::string Text() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Stops reading; to be called before the last reference goes.
  void Close();

 private:
  ConsoleTail(EventLoop* loop, UniqueFd read_end) : loop_(loop), read_end_(std::move(read_end)) {}
  void Read() ABSL_LOCKS_EXCLUDED(mutex_);
  void Remove();  // On the loop's thread.

  EventLoop* const loop_;
  UniqueFd read_end_;  // The loop's thread's, once started.
  mutable absl::Mutex mutex_;
  std::string tail_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
