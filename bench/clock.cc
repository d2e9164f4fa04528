// SPDX-License-Identifier: Apache-2.0
#include "bench/clock.h"

#include <algorithm>
#include <cmath>
#include <ctime>

namespace hearth::bench {
namespace {

constexpr uint64_t kRounds = 2'000'000;
// The kernel's timer ticks fall into the loops and count too.
constexpr double kTolerance = 0.02;

}  // namespace

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

bool CountsInstructions(double ns_per_add, double ns_per_divide) {
  return std::abs(ns_per_add - 1) < kTolerance && std::abs(ns_per_divide - 1) < kTolerance;
}

ClockKind MeasureClock() {
  ClockKind kind;
  uint64_t rounds = kRounds;
  uint64_t start = NowNs();
  asm volatile("1: add $3, %%rax; add $5, %%rax; add $7, %%rax; add $9, %%rax; dec %0; jnz 1b"
               : "+r"(rounds)
               :
               : "rax", "cc");
  kind.ns_per_add = static_cast<double>(NowNs() - start) / (6.0 * kRounds);
  rounds = kRounds;
  start = NowNs();
  asm volatile("1: xor %%edx, %%edx; mov $1000003, %%eax; div %1; dec %0; jnz 1b"
               : "+r"(rounds)
               : "r"(uint32_t{7})
               : "rax", "rdx", "cc");
  kind.ns_per_divide = static_cast<double>(NowNs() - start) / (5.0 * kRounds);
  kind.counts_instructions = CountsInstructions(kind.ns_per_add, kind.ns_per_divide);
  return kind;
}

}  // namespace hearth::bench
