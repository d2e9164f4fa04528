// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/empty_root.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/base/status.h"

namespace hearth::launcher {

absl::Status EnterEmptyRoot() {
  // A folder that every host has; what is mounted on it is seen in the new namespace only.
  constexpr char kMountPoint[] = "/dev";
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (unshare(CLONE_NEWNS) != 0) return ErrnoStatus("unshare(CLONE_NEWNS)");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoStatus("making the mounts private");
  }
  if (mount("hearth-empty", kMountPoint, "tmpfs", kFlags, "size=4k,nr_inodes=1,mode=555") != 0) {
    return ErrnoStatus("mounting an empty root");
  }
  if (chdir(kMountPoint) != 0) return ErrnoStatus("chdir to the empty root");
  // pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one, then detached.
  if (syscall(SYS_pivot_root, ".", ".") == 0) {
    if (umount2(".", MNT_DETACH) != 0) return ErrnoStatus("detaching the old root");
  } else {
    // The first root (initramfs) cannot be pivoted away from; what moves over it covers it.
    if (mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0) {
      return ErrnoStatus("making the empty root the root");
    }
  }
  if (chdir("/") != 0) return ErrnoStatus("chdir to the empty root");
  if (mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr) != 0) {
    return ErrnoStatus("making the empty root read-only");
  }
  return absl::OkStatus();
}

}  // namespace hearth::launcher
