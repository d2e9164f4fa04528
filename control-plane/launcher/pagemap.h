// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::launcher {

// Opens /proc/PID/pagemap for reading, on behalf of a process that has no privileges: whoever reads
// it sees which pages are present, and zeros instead of frame numbers, which the kernel tells only
// to files that were opened with CAP_SYS_ADMIN (pagemap.rst). `process_folder` is an open /proc.
// The caller is a single-threaded root process.
absl::StatusOr<UniqueFd> OpenPagemap(int process_folder, pid_t pid);

}  // namespace hearth::launcher
