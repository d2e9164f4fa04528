// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/steady_clock.h"

#include <algorithm>
#include <chrono>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"

namespace hearth {
namespace {

using Clock = std::chrono::steady_clock;

// Longer waits would overflow the clock's representation.
constexpr absl::Duration kLongestWait = absl::Hours(24 * 365);

// The mutex as the standard library wants it.
struct Held {
  void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Lock(); }
  void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex->Unlock(); }
  absl::Mutex* mutex;
};

}  // namespace

absl::Time SteadyNow() {
  struct Start {
    absl::Time wall = absl::Now();
    Clock::time_point steady = Clock::now();
  };
  static const Start start;
  return start.wall + absl::FromChrono(Clock::now() - start.steady);
}

absl::Time SteadyTimeOf(absl::Time wall) { return SteadyNow() + (wall - absl::Now()); }

absl::Time WallTimeOf(absl::Time steady) { return absl::Now() + (steady - SteadyNow()); }

void SteadyCondVar::Wait(absl::Mutex* mutex) {
  Held held{mutex};
  changed_.wait(held);
}

bool SteadyCondVar::WaitWithDeadline(absl::Mutex* mutex, absl::Time deadline) {
  const absl::Duration left = std::min(deadline - SteadyNow(), kLongestWait);
  if (left > absl::ZeroDuration()) {
    Held held{mutex};
    changed_.wait_until(held, Clock::now() + absl::ToChronoNanoseconds(left));
  }
  return SteadyNow() >= deadline;
}

}  // namespace hearth
