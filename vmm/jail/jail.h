// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vmm/base/status.h"

namespace hearth::vmm {

// Each kind of thread has a filter of its own; a system call outside it kills the process.
enum class ThreadKind {
  kMain,        // Event loop, control socket, devices.
  kVcpu,        // KVM_RUN and the register accesses of its guest.
  kPagerWatch,  // Waits for a pager to go, and then forbids access to guest memory.
};

// Loads the filter for the calling thread; there is no way back. Sets no_new_privs, which an
// unprivileged process needs for it. The filters are compiled when we are built (filter_tool.cc).
absl::Status EnterJail(ThreadKind kind);

// False in a build with a sanitizer, whose runtime makes system calls of its own; EnterJail then
// does nothing.
bool JailAvailable();

}  // namespace hearth::vmm
