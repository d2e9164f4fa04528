// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::libvirt {

// What a guest has moved to and from its disks, all together.
struct BlockBytes {
  uint64_t read = 0;
  uint64_t written = 0;
};

// For QEMU's monitor (QMP).
inline constexpr char kQueryBlockStats[] = R"({"execute": "query-blockstats"})";

// The monitor's answer to it. It comes from a QEMU that a guest may have taken over: INTERNAL when
// it is not what QEMU answers, or larger than kMaxBlockStatsBytes.
absl::StatusOr<BlockBytes> ParseBlockBytes(absl::string_view answer);

}  // namespace hearth::libvirt
