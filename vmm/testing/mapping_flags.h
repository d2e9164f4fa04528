// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

namespace hearth::vmm::testing {

// Whether the mapping that `address` is in has a flag of /proc/self/smaps: hg, large pages are
// wanted; nh, they are not; dd, it is in no core dump.
inline bool HasFlag(const uint8_t* address, const std::string& flag) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      const auto at = reinterpret_cast<uintptr_t>(address);
      inside = at >= begin && at < end;
    }
    if (inside && line.rfind("VmFlags:", 0) == 0) return line.find(" " + flag) != std::string::npos;
  }
  return false;
}

}  // namespace hearth::vmm::testing
