// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/working_set.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/base/read_at.h"

namespace hearth::vmm {
namespace {

// linux/Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPagePresent = uint64_t{1} << 63;
constexpr uint64_t kPageSwapped = uint64_t{1} << 62;
constexpr uint64_t kPageOfFile = uint64_t{1} << 61;

constexpr uint64_t kPagesOfBlock = 512;  // A large page's.
// Each page that is written then saves two faults, the host's and the nested tables', of 3 to 4
// thousand instructions; each that is not costs 4 to be cleared (docs/vmm.md).
constexpr uint64_t kDensePages = kPagesOfBlock * 5 / 8;

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

uint64_t EndOf(const PageRun& run) { return run.first_page + run.page_count; }
uint64_t EndOf(const PageRange& range) { return range.first_page + range.page_count; }

// Of each block of the memory file, how many of its pages lie in a hole and are to be written.
std::vector<uint64_t> FreshPages(uint64_t pages, std::span<const PageRun> runs,
                                 std::span<const PageRange> holes) {
  std::vector<uint64_t> fresh(pages / kPagesOfBlock);
  const auto add = [&fresh](uint64_t page, uint64_t end) {
    end = std::min(end, fresh.size() * kPagesOfBlock);
    while (page < end) {
      const uint64_t next = std::min((page / kPagesOfBlock + 1) * kPagesOfBlock, end);
      fresh[page / kPagesOfBlock] += next - page;
      page = next;
    }
  };
  size_t first = 0;
  for (const PageRange& hole : holes) {
    while (first < runs.size() && EndOf(runs[first]) <= hole.first_page) ++first;
    for (size_t i = first; i < runs.size() && runs[i].first_page < EndOf(hole); ++i) {
      if (!runs[i].written) continue;
      add(std::max(runs[i].first_page, hole.first_page), std::min(EndOf(runs[i]), EndOf(hole)));
    }
  }
  return fresh;
}

// Calls `use` with a run's part in each region: its first page in the file, its place and size.
template <typename Use>
void ForEachPart(const GuestMemory& memory, uint64_t run_first, uint64_t run_pages, Use use) {
  uint64_t region_first = 0;
  for (const auto& region : memory.regions()) {
    const uint64_t region_end = region_first + region.mapping.size_bytes() / kGuestPageBytes;
    const uint64_t first = std::max(run_first, region_first);
    const uint64_t end = std::min(run_first + run_pages, region_end);
    if (first < end) {
      use(first, std::span(region.mapping.data() + (first - region_first) * kGuestPageBytes,
                           (end - first) * kGuestPageBytes));
    }
    region_first = region_end;
  }
}

// Replaces a part of the file's mapping, from `page` on, by anonymous memory with the same bytes.
absl::Status Own(int memory_fd, uint64_t page, std::span<uint8_t> part,
                 std::span<const PageRange> holes) {
  if (mmap(part.data(), part.size(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    return ErrnoStatus("mapping memory for a block that will be written");
  }
  // As all guest memory, but for the large pages.
  madvise(part.data(), part.size(), MADV_DONTDUMP);
  madvise(part.data(), part.size(), MADV_HUGEPAGE);
  const uint64_t first = page;
  const uint64_t end = first + part.size() / kGuestPageBytes;
  const auto read = [&](uint64_t until) {
    if (page >= until) return absl::OkStatus();
    return ReadAt(
        memory_fd, page * kGuestPageBytes,
        {part.data() + (page - first) * kGuestPageBytes, (until - page) * kGuestPageBytes},
        "the memory file");
  };
  auto hole = std::partition_point(holes.begin(), holes.end(),
                                   [&](const PageRange& hole) { return EndOf(hole) <= first; });
  for (; hole != holes.end() && hole->first_page < end; ++hole) {
    RETURN_IF_ERROR(read(hole->first_page));
    page = EndOf(*hole);
  }
  return read(end);
}

}  // namespace

absl::Status OwnDenseBlocks(const GuestMemory& memory, int memory_fd, std::span<const PageRun> runs,
                            std::span<const PageRange> holes) {
  const std::vector<uint64_t> fresh =
      FreshPages(memory.size_bytes() / kGuestPageBytes, runs, holes);
  absl::Status status;
  for (uint64_t block = 0; block < fresh.size(); ++block) {
    if (fresh[block] < kDensePages) continue;
    ForEachPart(memory, block * kPagesOfBlock, kPagesOfBlock,
                [&](uint64_t page, std::span<uint8_t> part) {
                  if (status.ok()) status = Own(memory_fd, page, part, holes);
                });
  }
  return status;
}

void PopulateWorkingSet(const GuestMemory& memory, std::span<const PageRun> runs) {
  for (const PageRun& run : runs) {
    if (!run.written) continue;
    ForEachPart(memory, run.first_page, run.page_count, [](uint64_t, std::span<uint8_t> part) {
      madvise(part.data(), part.size(), MADV_POPULATE_WRITE);
    });
  }
}

}  // namespace hearth::vmm
