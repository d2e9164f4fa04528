// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace hearth::control {

// Makes UUIDv7 (RFC 9562 5.7) whose text sorts in the order of making, also within a millisecond
// and when the clock steps back. Thread-safe.
class UuidGenerator {
 public:
  std::string Next() ABSL_LOCKS_EXCLUDED(mutex_);
  // As if the clock showed `unix_ms`; for tests.
  std::string NextAt(uint64_t unix_ms) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Mutex mutex_;
  uint64_t last_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t counter_ ABSL_GUARDED_BY(mutex_) = 0;  // rand_a, 12 bits: RFC 9562 6.2 method 1.
};

// Whether `text` has a UUID's form (lower-case hexadecimal, 8-4-4-4-12), of any version.
bool IsUuid(absl::string_view text);

}  // namespace hearth::control
