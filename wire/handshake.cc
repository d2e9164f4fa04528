// SPDX-License-Identifier: Apache-2.0
#include "wire/handshake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace hearth::wire {

absl::StatusOr<uint32_t> NegotiateVersion(absl::string_view protocol, absl::string_view peer,
                                          VersionRange ours, VersionRange theirs) {
  if (theirs.min == 0 || theirs.min > theirs.max) {
    return absl::InvalidArgumentError(absl::StrCat(peer, " offers no valid range of versions of ",
                                                   protocol, ": ", theirs.min, " to ", theirs.max));
  }
  const uint32_t version = std::min(ours.max, theirs.max);
  if (version < std::max(ours.min, theirs.min)) {
    return absl::FailedPreconditionError(
        absl::StrCat("no version of ", protocol, " in common: ", peer, " speaks ", theirs.min,
                     " to ", theirs.max, ", this side ", ours.min, " to ", ours.max, "; ",
                     theirs.max < ours.min ? peer : "this side", " is too old"));
  }
  return version;
}

}  // namespace hearth::wire
