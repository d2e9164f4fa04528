// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/working_set.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "vmm/snapshot/memory_file.h"

namespace hearth::vmm {
namespace {

// linux/Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPagePresent = uint64_t{1} << 63;
constexpr uint64_t kPageSwapped = uint64_t{1} << 62;
constexpr uint64_t kPageOfFile = uint64_t{1} << 61;

constexpr uint64_t kNeedlessCopyCost = 8;  // In pages that are mapped without need.

// What joining two neighbours costs.
uint64_t JoinCost(const PageRun& a, const PageRun& b) {
  const uint64_t gap = b.first_page - (a.first_page + a.page_count);
  if (!a.written && !b.written) return gap;
  uint64_t copies = gap;
  if (!a.written) copies += a.page_count;
  if (!b.written) copies += b.page_count;
  return copies * kNeedlessCopyCost;
}

void Join(PageRun& a, const PageRun& b) {
  a.page_count = b.first_page + b.page_count - a.first_page;
  a.written = a.written || b.written;
}

}  // namespace

void PageRunCollector::Add(uint64_t page, bool written) {
  if (!runs_.empty()) {
    PageRun& last = runs_.back();
    if (last.first_page + last.page_count == page && last.written == written) {
      ++last.page_count;
      return;
    }
  }
  // Halving now and then keeps the work linear.
  if (runs_.size() >= 2 * limit_) Compact();
  runs_.push_back({page, 1, written});
}

void PageRunCollector::Compact() {
  while (runs_.size() > limit_) {
    std::vector<uint64_t> costs;
    for (size_t i = 1; i < runs_.size(); ++i) costs.push_back(JoinCost(runs_[i - 1], runs_[i]));
    size_t joins = runs_.size() - limit_;
    const auto nth = costs.begin() + static_cast<std::ptrdiff_t>(joins - 1);
    std::vector<uint64_t> sorted = costs;
    std::nth_element(sorted.begin(), sorted.begin() + (nth - costs.begin()), sorted.end());
    const uint64_t threshold = sorted[joins - 1];
    std::vector<PageRun> kept = {runs_[0]};
    for (size_t i = 1; i < runs_.size(); ++i) {
      // Anew: what was joined before may have made this one dearer.
      if (joins > 0 && costs[i - 1] <= threshold && JoinCost(kept.back(), runs_[i]) <= threshold) {
        Join(kept.back(), runs_[i]);
        --joins;
      } else {
        kept.push_back(runs_[i]);
      }
    }
    if (kept.size() == runs_.size()) Join(kept[0], kept[1]), kept.erase(kept.begin() + 1);
    runs_ = std::move(kept);
  }
}

std::vector<PageRun> PageRunCollector::Finish() {
  Compact();
  return std::move(runs_);
}

absl::StatusOr<std::vector<PageRun>> ReadWorkingSet(const GuestMemory& memory, int pagemap_fd,
                                                    size_t max_runs) {
  PageRunCollector collector(max_runs);
  std::array<uint64_t, 4096> entries;
  uint64_t file_page = 0;
  for (const auto& region : memory.regions()) {
    uint64_t at = reinterpret_cast<uint64_t>(region.mapping.data()) / kGuestPageBytes;
    uint64_t left = region.mapping.size_bytes() / kGuestPageBytes;
    while (left != 0) {
      const size_t wanted = std::min<uint64_t>(left, entries.size()) * sizeof(uint64_t);
      const ssize_t got =
          pread(pagemap_fd, entries.data(), wanted, static_cast<off_t>(at * sizeof(uint64_t)));
      if (got < 0) return ErrnoStatus("reading the pagemap");
      const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
      if (count == 0) return absl::InvalidArgumentError("the pagemap ends before guest memory");
      for (size_t i = 0; i < count; ++i) {
        const uint64_t entry = entries[i];
        if ((entry & (kPagePresent | kPageSwapped)) == 0) continue;
        collector.Add(file_page + i, (entry & kPageOfFile) == 0);
      }
      at += count;
      left -= count;
      file_page += count;
    }
  }
  return collector.Finish();
}

void PopulateWorkingSet(const GuestMemory& memory, std::span<const PageRun> runs) {
  uint64_t region_first = 0;
  for (const auto& region : memory.regions()) {
    const uint64_t region_pages = region.mapping.size_bytes() / kGuestPageBytes;
    const uint64_t region_end = region_first + region_pages;
    for (const PageRun& run : runs) {
      const uint64_t first = std::max(run.first_page, region_first);
      const uint64_t end = std::min(run.first_page + run.page_count, region_end);
      if (!run.written || first >= end) continue;
      madvise(region.mapping.data() + (first - region_first) * kGuestPageBytes,
              (end - first) * kGuestPageBytes, MADV_POPULATE_WRITE);
    }
    region_first = region_end;
  }
}

}  // namespace hearth::vmm
