// SPDX-License-Identifier: Apache-2.0
// What is done with recorded working sets: checked, joined, kept small.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "control-plane/backend/working_set.h"

namespace hearth::control {

// INVALID_ARGUMENT unless the runs ascend without overlap, are not empty, lie within `pages` and
// are at most wire::kMaxPageRuns.
absl::Status CheckWorkingSet(const WorkingSet& working_set, uint64_t pages);

// Every page of either; a page that one of them has written counts as written. At most `max_runs`
// runs: where there are more, the smallest gaps between them are bridged, and of neighbours that
// differ the shortest take the other's kind (written wins). Both must be checked.
WorkingSet JoinWorkingSets(const WorkingSet& a, const WorkingSet& b, size_t max_runs);

}  // namespace hearth::control
