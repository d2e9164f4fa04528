// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// A wish to stop, shared by who utters it and who heeds it. Copies are the same wish. Thread-safe.
class Cancellation {
 public:
  // Unregisters its callback when it goes; waits for a call under way on another thread.
  class Registration {
   public:
    Registration() = default;
    Registration(Registration&& other) noexcept { *this = std::move(other); }
    Registration& operator=(Registration&& other) noexcept {
      Release();
      state_ = std::move(other.state_);
      id_ = other.id_;
      return *this;
    }
    ~Registration() { Release(); }

   private:
    friend class Cancellation;
    struct Shared;
    void Release();
    std::shared_ptr<Shared> state_;
    uint64_t id_ = 0;
  };

  Cancellation() : state_(std::make_shared<Registration::Shared>()) {}

  void Cancel();
  bool cancelled() const;

  // Calls `callback` once when cancelled (at once, on this thread, if it already is). The callback
  // runs with an internal lock held: it must be short and must not touch this object.
  [[nodiscard]] Registration OnCancel(std::function<void()> callback) const;

 private:
  std::shared_ptr<Registration::Shared> state_;
};

struct Cancellation::Registration::Shared {
  absl::Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  uint64_t next_id ABSL_GUARDED_BY(mutex) = 1;
  std::map<uint64_t, std::function<void()>> callbacks ABSL_GUARDED_BY(mutex);
};

inline void Cancellation::Registration::Release() {
  if (!state_) return;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->callbacks.erase(id_);
  }
  state_.reset();
}

inline void Cancellation::Cancel() {
  absl::MutexLock lock(&state_->mutex);
  if (std::exchange(state_->cancelled, true)) return;
  for (auto& [id, callback] : state_->callbacks) callback();
  state_->callbacks.clear();
}

inline bool Cancellation::cancelled() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->cancelled;
}

inline Cancellation::Registration Cancellation::OnCancel(std::function<void()> callback) const {
  Registration registration;
  absl::MutexLock lock(&state_->mutex);
  if (state_->cancelled) {
    callback();
    return registration;
  }
  registration.state_ = state_;
  registration.id_ = state_->next_id++;
  state_->callbacks.emplace(registration.id_, std::move(callback));
  return registration;
}

}  // namespace hearth::control
