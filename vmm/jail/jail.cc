// SPDX-License-Identifier: Apache-2.0
#include "vmm/jail/jail.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <span>

#include "vmm/jail/filters.h"  // Made by filter_tool.cc.

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HEARTH_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HEARTH_SANITIZED 1
#endif
#endif
#ifndef HEARTH_SANITIZED
#define HEARTH_SANITIZED 0
#endif

namespace hearth::vmm {
namespace {

std::span<const sock_filter> FilterFor(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::kMain:
      return kMainFilter;
    case ThreadKind::kVcpu:
      return kVcpuFilter;
    case ThreadKind::kPagerWatch:
      return kPagerWatchFilter;
  }
  __builtin_unreachable();
}

}  // namespace

bool JailAvailable() { return HEARTH_SANITIZED == 0; }

absl::Status EnterJail(ThreadKind kind) {
  if (!JailAvailable()) return absl::OkStatus();
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoStatus("PR_SET_NO_NEW_PRIVS");
  const std::span<const sock_filter> filter = FilterFor(kind);
  sock_fprog program{};
  program.len = static_cast<unsigned short>(filter.size());
  program.filter = const_cast<sock_filter*>(filter.data());  // The kernel only reads it.
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
    return ErrnoStatus("loading the seccomp filter");
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm
