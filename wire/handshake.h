// SPDX-License-Identifier: Apache-2.0
// Version negotiation, the same in all of Hearth's own protocols: both sides say what range they
// speak, and the highest version in both is spoken.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::wire {

struct VersionRange {
  uint32_t min = 0;
  uint32_t max = 0;
};

// The version to speak. INVALID_ARGUMENT when the peer's range is no range (0, or min over max);
// FAILED_PRECONDITION, naming both ranges and which side is too old, when there is none in common.
// `protocol` and `peer` are for that message only, as in ("hearth.agent.v1", "the agent").
absl::StatusOr<uint32_t> NegotiateVersion(absl::string_view protocol, absl::string_view peer,
                                          VersionRange ours, VersionRange theirs);

}  // namespace hearth::wire
