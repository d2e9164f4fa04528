// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace hearth::libvirt {

// How many thousand steps the processor's TSC makes in a second by the kernel's clock, which NTP
// does not touch (CLOCK_MONOTONIC_RAW). Takes 20 ms; two calls differ by some millionths.
uint32_t MeasureTscKhz();

}  // namespace hearth::libvirt
