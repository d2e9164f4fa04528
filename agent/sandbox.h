// SPDX-License-Identifier: Apache-2.0
// What is taken from user code before it runs. All of it is called in the child, after clone, in
// a process with one thread.
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>

namespace hearth::agent {

// User code runs under this id; no file of the images belongs to it.
inline constexpr uid_t kUserId = 993;
inline constexpr gid_t kGroupId = 993;

struct Sandbox {
  // The mount point that becomes the root. Empty (tests on a host): the root stays, all else
  // happens.
  std::string root;
  uid_t uid = kUserId;
  gid_t gid = kGroupId;
  uint32_t open_files = 1024;
  // Mounted over the kernel's read-only boot_id; empty (tests): it is not.
  std::string boot_id_file;
};

// In which step a child failed; kNone is success.
enum class SandboxStep : int32_t {
  kNone,
  kDescriptors,
  kMounts,
  kFork,
  kLimits,
  kPrivileges,
  kFilter,
  kWorkingDirectory,
  kExecute,
};
const char* SandboxStepName(SandboxStep step);

// In the first process of new mount and pid namespaces: makes its cgroup the root of those that it
// sees, makes `sandbox.root` the root and mounts a
// /proc of the new pid namespace, which shows only the reader's own processes and `boot_id_file` in
// the kernel's place. errno on failure.
bool EnterRoot(const Sandbox& sandbox);

// What user code's system calls are judged by (seccomp(2)).
std::array<sock_filter, 12> SystemCallFilter();

// Resource limits, groups, uid, capabilities, no_new_privs and the system call filter. Returns the
// step that failed, with errno set.
SandboxStep DropPrivileges(const Sandbox& sandbox);

}  // namespace hearth::agent
