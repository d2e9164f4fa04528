// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/working_sets.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

uint64_t EndOf(const PageRun& run) { return uint64_t{run.first_page} + run.page_count; }

void Append(uint64_t first, uint64_t end, bool written, WorkingSet* runs) {
  if (first >= end) return;
  if (!runs->empty() && EndOf(runs->back()) == first && runs->back().written == written) {
    runs->back().page_count += static_cast<uint32_t>(end - first);
  } else {
    runs->push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(end - first), written});
  }
}

WorkingSet Union(const WorkingSet& a, const WorkingSet& b) {
  // Between two neighbouring edges neither set changes.
  std::vector<uint64_t> edges;
  edges.reserve(2 * (a.size() + b.size()));
  for (const WorkingSet* set : {&a, &b}) {
    for (const PageRun& run : *set) {
      edges.push_back(run.first_page);
      edges.push_back(EndOf(run));
    }
  }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  WorkingSet joined;
  size_t in_a = 0;
  size_t in_b = 0;
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    bool covered = false;
    bool written = false;
    const auto look = [&](const WorkingSet& set, size_t* at) {
      while (*at < set.size() && EndOf(set[*at]) <= edges[i]) ++*at;
      if (*at == set.size() || set[*at].first_page > edges[i]) return;
      covered = true;
      written = written || set[*at].written;
    };
    look(a, &in_a);
    look(b, &in_b);
    if (covered) Append(edges[i], edges[i + 1], written, &joined);
  }
  return joined;
}

// What making one of each run and its follower costs: the pages of the gap, and those of the lesser
// kind that become written though nobody wrote them.
uint64_t CostOfJoining(const PageRun& run, const PageRun& next) {
  uint64_t cost = next.first_page - EndOf(run);
  if (run.written != next.written) cost += run.written ? next.page_count : run.page_count;
  return cost;
}

WorkingSet Bridge(const WorkingSet& runs, uint64_t threshold, size_t excess) {
  WorkingSet bridged;
  for (const PageRun& run : runs) {
    if (excess > 0 && !bridged.empty() && CostOfJoining(bridged.back(), run) <= threshold) {
      PageRun& last = bridged.back();
      last.page_count = static_cast<uint32_t>(EndOf(run) - last.first_page);
      last.written = last.written || run.written;
      --excess;
    } else {
      bridged.push_back(run);
    }
  }
  return bridged;
}

}  // namespace

absl::Status CheckWorkingSet(const WorkingSet& working_set, uint64_t pages) {
  if (working_set.size() > wire::kMaxPageRuns) {
    return absl::InvalidArgumentError(absl::StrCat("a working set of ", working_set.size(),
                                                   " runs; at most ", wire::kMaxPageRuns));
  }
  uint64_t end = 0;
  for (size_t i = 0; i < working_set.size(); ++i) {
    const PageRun& run = working_set[i];
    const auto bad = [&](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat("run ", i, " of the working set (",
                                                     run.page_count, " pages from ", run.first_page,
                                                     ") ", why));
    };
    if (run.page_count == 0) return bad("is empty");
    if (run.first_page < end) return bad("overlaps the one before, or is out of order");
    end = EndOf(run);
    if (end > pages) return bad(absl::StrCat("is beyond the memory's ", pages, " pages"));
  }
  return absl::OkStatus();
}

WorkingSet JoinWorkingSets(const WorkingSet& a, const WorkingSet& b, size_t max_runs) {
  WorkingSet joined = Union(a, b);
  // Costs change as runs grow, so the cheapest are taken anew until it fits: each round takes at
  // least one away.
  while (joined.size() > max_runs && joined.size() > 1) {
    const size_t excess = joined.size() - std::max<size_t>(max_runs, 1);
    if (excess == 0) break;
    std::vector<uint64_t> costs;
    costs.reserve(joined.size() - 1);
    for (size_t i = 0; i + 1 < joined.size(); ++i) {
      costs.push_back(CostOfJoining(joined[i], joined[i + 1]));
    }
    const auto nth = costs.begin() + static_cast<ptrdiff_t>(std::min(excess, costs.size()) - 1);
    std::nth_element(costs.begin(), nth, costs.end());
    joined = Bridge(joined, *nth, excess);
  }
  return joined;
}

}  // namespace hearth::control
