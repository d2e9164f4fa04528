// SPDX-License-Identifier: Apache-2.0
// Moments and waits on the monotonic clock: what is measured, and what is waited for, must not
// change when somebody sets the wall clock.
#pragma once

#include <condition_variable>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace hearth {

// The wall clock's time as it would be had nobody set it since this was first called. Compares with
// moments that come from here alone.
absl::Time SteadyNow();
// When a wall clock that nobody sets any more shows `wall`.
absl::Time SteadyTimeOf(absl::Time wall);
// What the wall clock, as it goes now, showed or will show at that moment of SteadyNow()'s.
absl::Time WallTimeOf(absl::Time steady);

// absl::CondVar but for its deadlines, which are SteadyNow()'s: absl's follow the wall clock.
class SteadyCondVar {
 public:
  void Signal() { changed_.notify_one(); }
  void SignalAll() { changed_.notify_all(); }
  void Wait(absl::Mutex* mutex);
  // True when the deadline has passed.
  bool WaitWithDeadline(absl::Mutex* mutex, absl::Time deadline);

 private:
  std::condition_variable_any changed_;
};

}  // namespace hearth
