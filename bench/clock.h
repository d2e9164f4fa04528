// SPDX-License-Identifier: Apache-2.0
// What a nanosecond means here. Under QEMU's icount (tests/testbed/run --icount) the machine's
// clock counts instructions, one to a nanosecond, and figures repeat whatever else the host does.
#pragma once

#include <cstdint>
#include <string>

namespace hearth::bench {

uint64_t NowNs();

// Marks for bench/profile, whose plugin for the emulator counts the instructions between them: a
// `nopl` that nothing else contains. They do nothing else.
inline void BeginProfile() { asm volatile(".byte 0x0f, 0x1f, 0x80, 0x01, 0xaa, 0x50, 0x48"); }
inline void EndProfile() { asm volatile(".byte 0x0f, 0x1f, 0x80, 0x02, 0xaa, 0x50, 0x48"); }

struct ClockKind {
  bool counts_instructions = false;
  double ns_per_add = 0;     // Of a loop of additions, for each instruction.
  double ns_per_divide = 0;  // Of a loop of divisions: on a real processor many times as slow.
  // "million instructions" or "ms": what a million ticks of NowNs() are called.
  std::string unit() const { return counts_instructions ? "million instructions" : "ms"; }
};

// Found out by timing two loops of known lengths: only a clock that counts instructions gives 1 ns
// for each instruction of both.
ClockKind MeasureClock();
// The judgement alone.
bool CountsInstructions(double ns_per_add, double ns_per_divide);

}  // namespace hearth::bench
