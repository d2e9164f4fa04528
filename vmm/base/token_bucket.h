// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <ctime>

namespace hearth {

// Nanoseconds of the monotonic clock.
inline uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Lets `per_second` units pass in the long run and at most `capacity` at once; both fit 32 bits.
// Plain data; the caller says what time it is, so tests need no clock. Starts full.
class TokenBucket {
 public:
  TokenBucket(uint64_t capacity, uint64_t per_second)
      : capacity_(capacity), per_second_(per_second), tokens_(capacity) {}

  // Takes as many of `wanted` units as there are, and returns their number.
  uint64_t TakeUpTo(uint64_t wanted, uint64_t now_ns) {
    Refill(now_ns);
    const uint64_t taken = std::min(wanted, tokens_);
    tokens_ -= taken;
    return taken;
  }
  // Takes all of `wanted` units or none.
  bool Take(uint64_t wanted, uint64_t now_ns) {
    Refill(now_ns);
    if (tokens_ < wanted) return false;
    tokens_ -= wanted;
    return true;
  }

 private:
  void Refill(uint64_t now_ns) {
    if (now_ns <= last_ns_) return;
    // Longer than that fills any bucket we make, and keeps the product within 64 bits.
    constexpr uint64_t kMaxElapsedMs = 3'600'000;
    const uint64_t elapsed_ms = std::min((now_ns - last_ns_) / 1'000'000, kMaxElapsedMs);
    const uint64_t earned = elapsed_ms * per_second_ / 1000;
    if (earned == 0) return;
    if (earned >= capacity_ - tokens_) {
      tokens_ = capacity_;
      last_ns_ = now_ns;
      return;
    }
    tokens_ += earned;
    // Only the time that they took: what is left of it earns with what comes.
    last_ns_ += earned * 1'000'000'000 / per_second_;
  }

  uint64_t capacity_;
  uint64_t per_second_;
  uint64_t tokens_;
  uint64_t last_ns_ = 0;
};

}  // namespace hearth
