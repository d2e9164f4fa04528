// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace hearth::control {

// A run of 4 KiB pages of guest memory, by its place in a saved machine's memory file.
struct PageRun {
  uint32_t first_page = 0;
  uint32_t page_count = 0;
  bool written = false;  // Private by then: the guest, or a device, wrote to it.
  bool operator==(const PageRun&) const = default;
};

// Ascending, no overlap, at most wire::kMaxPageRuns.
using WorkingSet = std::vector<PageRun>;

}  // namespace hearth::control
