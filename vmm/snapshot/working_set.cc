// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/working_set.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace hearth::vmm {
namespace {

// linux/Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPagePresent = uint64_t{1} << 63;
constexpr uint64_t kPageSwapped = uint64_t{1} << 62;
constexpr uint64_t kPageOfFile = uint64_t{1} << 61;

constexpr uint64_t kPagesOfBlock = 512;  // A large page's.
// What is written needlessly is at most a quarter of a block's memory, and clearing that is less
// than the faults of the rest.
constexpr uint64_t kDensePages = kPagesOfBlock * 3 / 4;

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
    std::vector<uint64_t> sorted = costs;
    const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(joins - 1);
    std::nth_element(sorted.begin(), nth, sorted.end());
    const uint64_t threshold = *nth;
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

namespace {

// Of each block of the memory file, how many of its pages are to be written.
std::vector<uint16_t> WrittenPages(uint64_t pages, std::span<const PageRun> runs) {
  std::vector<uint16_t> written(pages / kPagesOfBlock);
  const uint64_t whole = written.size() * kPagesOfBlock;
  for (const PageRun& run : runs) {
    if (!run.written) continue;
    const uint64_t end = std::min(run.first_page + run.page_count, whole);
    for (uint64_t page = run.first_page; page < end;) {
      const uint64_t next = std::min((page / kPagesOfBlock + 1) * kPagesOfBlock, end);
      uint16_t& count = written[page / kPagesOfBlock];
      // No more than there are, should runs overlap.
      count = static_cast<uint16_t>(std::min(count + (next - page), kPagesOfBlock));
      page = next;
    }
  }
  return written;
}

// Calls `use` with each longest run of blocks that lie in a hole and are mostly to be written.
template <typename Use>
void ForDenseBlocks(std::span<const uint16_t> written, std::span<const PageRange> holes, Use use) {
  for (const PageRange& hole : holes) {
    const uint64_t end =
        std::min<uint64_t>((hole.first_page + hole.page_count) / kPagesOfBlock, written.size());
    uint64_t block = (hole.first_page + kPagesOfBlock - 1) / kPagesOfBlock;
    while (block < end) {
      uint64_t last = block;
      while (last < end && written[last] >= kDensePages) ++last;
      if (last > block) use(block * kPagesOfBlock, (last - block) * kPagesOfBlock);
      block = last + 1;
    }
  }
}

}  // namespace

void PopulateWorkingSet(const GuestMemory& memory, std::span<const PageRun> runs,
                        std::span<const PageRange> holes) {
  const std::vector<uint16_t> written = WrittenPages(memory.size_bytes() / kGuestPageBytes, runs);
  uint64_t region_first = 0;
  for (const auto& region : memory.regions()) {
    const uint64_t region_pages = region.mapping.size_bytes() / kGuestPageBytes;
    const uint64_t region_end = region_first + region_pages;
    const auto advise = [&](uint64_t run_first, uint64_t run_pages, int advice) {
      const uint64_t first = std::max(run_first, region_first);
      const uint64_t end = std::min(run_first + run_pages, region_end);
      if (first >= end) return;
      madvise(region.mapping.data() + (first - region_first) * kGuestPageBytes,
              (end - first) * kGuestPageBytes, advice);
    };
    ForDenseBlocks(written, holes,
                   [&](uint64_t first, uint64_t count) { advise(first, count, MADV_HUGEPAGE); });
    for (const PageRun& run : runs) {
      if (run.written) advise(run.first_page, run.page_count, MADV_POPULATE_WRITE);
    }
    region_first = region_end;
  }
}

}  // namespace hearth::vmm
