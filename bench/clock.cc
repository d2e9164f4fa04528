// SPDX-License-Identifier: Apache-2.0
#include "bench/clock.h"

#include <algorithm>
#include <cmath>
#include <ctime>

namespace hearth::bench {
namespace {

constexpr uint64_t kRounds = 100'000;
// Timer ticks and other programs' turns fall into a loop and count too: the shortest of many is one
// without.
constexpr int kRepeats = 40;
constexpr double kTolerance = 0.02;

double Shortest(double instructions, void (*loop)()) {
  uint64_t shortest_ns = UINT64_MAX;
  for (int i = 0; i < kRepeats; ++i) {
    const uint64_t start_ns = NowNs();
    loop();
    shortest_ns = std::min(shortest_ns, NowNs() - start_ns);
  }
  return static_cast<double>(shortest_ns) / instructions;
}

void Add() {
  uint64_t rounds = kRounds;
  asm volatile("1: add $3, %%rax; add $5, %%rax; add $7, %%rax; add $9, %%rax; dec %0; jnz 1b"
               : "+r"(rounds)
               :
               : "rax", "cc");
}

void Divide() {
  uint64_t rounds = kRounds;
  asm volatile("1: xor %%edx, %%edx; mov $1000003, %%eax; div %1; dec %0; jnz 1b"
               : "+r"(rounds)
               : "r"(uint32_t{7})
               : "rax", "rdx", "cc");
}

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
  kind.ns_per_add = Shortest(6.0 * kRounds, Add);
  kind.ns_per_divide = Shortest(5.0 * kRounds, Divide);
  kind.counts_instructions = CountsInstructions(kind.ns_per_add, kind.ns_per_divide);
  return kind;
}

}  // namespace hearth::bench
