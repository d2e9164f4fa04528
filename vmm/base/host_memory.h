// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace hearth {

// In bytes; zeros when the host does not tell.
struct HostMemory {
  uint64_t available = 0;
  uint64_t total = 0;
};

// What may be used here: of the host, or of the cgroup at the root of the hierarchy when that has a
// limit, as in a container; cgroup versions 1 and 2. `root` is where the host's files are.
HostMemory ReadHostMemory(const std::string& root = "");

}  // namespace hearth
