// SPDX-License-Identifier: Apache-2.0
// Which pages of a restored machine were used, and having them there before it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/snapshot/memory_file.h"

namespace hearth::vmm {

// A run of 4 KiB pages, by its place in the memory file.
struct PageRun {
  uint64_t first_page = 0;
  uint64_t page_count = 0;
  bool written = false;  // Private to the machine: the guest, or a device, wrote to it.

  bool operator==(const PageRun&) const = default;
};

// Collects pages in ascending order into at most `limit` runs, in bounded memory: when there would
// be more, the cheapest neighbours become one, gap included. A page that is then populated for
// writing without need costs a copy and memory of its own, so it counts for more than one that is
// only mapped.
class PageRunCollector {
 public:
  explicit PageRunCollector(size_t limit) : limit_(limit) {}
  // `page` is above all before.
  void Add(uint64_t page, bool written);
  std::vector<PageRun> Finish();

 private:
  void Compact();

  size_t limit_;  // At least 1.
  std::vector<PageRun> runs_;
};

// Reads the entries of a /proc/PID/pagemap of this process that belong to `memory`, a private
// mapping of a memory file. A page of a hole that was only read may count as written.
absl::StatusOr<std::vector<PageRun>> ReadWorkingSet(const GuestMemory& memory, int pagemap_fd,
                                                    size_t max_runs);

// Makes blocks of 2 MiB in which the machine will mostly write where the file has `holes` its own:
// anonymous memory that asks for large pages, one fault instead of 512, in the host's tables and in
// the nested ones. What the file has there is read into it. Only before the machine runs.
absl::Status OwnDenseBlocks(const GuestMemory& memory, int memory_fd, std::span<const PageRun> runs,
                            std::span<const PageRange> holes);

// Gives the machine its private copies of the pages that it will write: faulting them in costs
// twice, once for the file's page and once for the copy. What it will only read is left to faults:
// each maps a window of 16 pages of the file, which is in memory, and populating them ahead took
// longer than it saved (docs/vmm.md). A hint: pages outside the memory are passed over, and a
// kernel that cannot populate (before Linux 5.14) leaves all of it to faults.
void PopulateWorkingSet(const GuestMemory& memory, std::span<const PageRun> runs);

}  // namespace hearth::vmm
