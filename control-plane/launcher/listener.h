// SPDX-License-Identifier: Apache-2.0
// The Unix socket by which hearthd, which is not root, reaches the process that is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace hearth::launcher {

// Makes it for `uid` alone: listening, non-blocking. ALREADY_EXISTS when a program answers there;
// what a killed one left is replaced.
absl::StatusOr<UniqueFd> ListenFor(const std::string& path, uint32_t uid);

// Gives a socket that this process has just made to `uid`. `path` may be in a folder of that user,
// who may have put a link or another file there meanwhile: FAILED_PRECONDITION, and nothing
// changes.
absl::Status GiveSocket(const std::string& path, uint32_t uid);

// PERMISSION_DENIED unless the connection's other end is `uid`, root, or runs as this process does.
absl::Status CheckPeer(int connection, uint32_t uid);

}  // namespace hearth::launcher
