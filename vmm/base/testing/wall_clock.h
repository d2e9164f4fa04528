// SPDX-License-Identifier: Apache-2.0
// The wall clock of a test's program, which the test may set: a program that links this calls its
// clock_gettime() instead of the C library's.
#pragma once

#include "absl/time/time.h"

namespace hearth::testing {

// Set back right when it goes. One at a time.
class WallClock {
 public:
  WallClock() = default;
  ~WallClock();
  WallClock(const WallClock&) = delete;
  WallClock& operator=(const WallClock&) = delete;

  // Returns when absl::Now() shows it. One thread at a time.
  void Step(absl::Duration by);
};

}  // namespace hearth::testing
