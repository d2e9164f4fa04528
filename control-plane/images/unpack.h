// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "control-plane/node/cancellation.h"

namespace hearth::control {

// Unpacks the archive (tar or zip; plain, gzip or zstd) at `archive` into the empty folder
// `folder`, which nobody else writes to. The archive is hostile: entries must be files, folders or
// symbolic and hard links; no path may be absolute, hold "..", or lead through a link; a link may
// name only what is inside. Owners and times are not kept; of the mode only whether the owner may
// execute. INVALID_ARGUMENT says which entry broke which rule; what was unpacked by then stays for
// the caller to remove.
absl::Status Unpack(const std::string& archive, const std::string& folder,
                    const Cancellation& cancellation);

}  // namespace hearth::control
