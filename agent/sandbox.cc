// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace hearth::agent {
namespace {

bool SetLimits(const Sandbox& sandbox) {
  const rlimit files = {sandbox.open_files, sandbox.open_files};
  const rlimit none = {0, 0};
  return setrlimit(RLIMIT_NOFILE, &files) == 0 && setrlimit(RLIMIT_CORE, &none) == 0;
}

bool DropIdentity(const Sandbox& sandbox) {
  for (unsigned long cap = 0; cap < 64; ++cap) {
    // EINVAL: the kernel knows no capability of this number or above.
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EINVAL) return false;
  }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return false;
  if (setgroups(0, nullptr) != 0) return false;
  if (setresgid(sandbox.gid, sandbox.gid, sandbox.gid) != 0) return false;
  if (setresuid(sandbox.uid, sandbox.uid, sandbox.uid) != 0) return false;
  // Empty already, for uid 0 was left; the inheritable set is not touched by that.
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct empty[2] = {};
  if (syscall(SYS_capset, &header, empty) != 0) return false;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

bool InstallFilter() {
  std::array<sock_filter, 12> filter = SystemCallFilter();
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

}  // namespace

// The host talks to the agent over vsock, so user code must not speak on it in the agent's place.
// vsock has no namespaces in Linux 6.1: refuse to make such sockets, also by way of io_uring and of
// the other system call tables.
std::array<sock_filter, 12> SystemCallFilter() {
  constexpr uint32_t kX32Bit = 0x40000000;
  const auto refuse = [](uint32_t error) { return SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA); };
  return {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, refuse(ENOSYS)),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),  // Low half: an int.
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_VSOCK, 2, 1),
      BPF_STMT(BPF_RET | BPF_K, refuse(ENOSYS)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, refuse(EAFNOSUPPORT)),
  }};
}

const char* SandboxStepName(SandboxStep step) {
  switch (step) {
    case SandboxStep::kNone:
      break;
    case SandboxStep::kDescriptors:
      return "arrange its descriptors";
    case SandboxStep::kMounts:
      return "make its root";
    case SandboxStep::kFork:
      return "fork";
    case SandboxStep::kLimits:
      return "set its resource limits";
    case SandboxStep::kPrivileges:
      return "drop its privileges";
    case SandboxStep::kFilter:
      return "install its system call filter";
    case SandboxStep::kWorkingDirectory:
      return "enter its working directory";
    case SandboxStep::kExecute:
      return "execute it";
  }
  return "start";
}

bool EnterRoot(const Sandbox& sandbox) {
  // Here and not with the clone, whose namespace would begin at the agent's cgroup.
  if (unshare(CLONE_NEWCGROUP) != 0) return false;
  // Nothing that is mounted here is seen outside.
  if (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  if (chdir(sandbox.root.empty() ? "/" : sandbox.root.c_str()) != 0) return false;
  if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible") != 0) {
    return false;
  }
  // While the file can still be named. It is root's, so user code can only read it.
  if (!sandbox.boot_id_file.empty() &&
      mount(sandbox.boot_id_file.c_str(), "proc/sys/kernel/random/boot_id", nullptr, MS_BIND,
            nullptr) != 0) {
    return false;
  }
  if (sandbox.root.empty()) return true;
  // pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one for a moment.
  if (syscall(SYS_pivot_root, ".", ".") != 0) return false;
  return umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
}

SandboxStep DropPrivileges(const Sandbox& sandbox) {
  umask(022);
  if (setsid() < 0 && errno != EPERM) return SandboxStep::kPrivileges;
  if (!SetLimits(sandbox)) return SandboxStep::kLimits;
  if (!DropIdentity(sandbox)) return SandboxStep::kPrivileges;
  if (!InstallFilter()) return SandboxStep::kFilter;
  return SandboxStep::kNone;
}

}  // namespace hearth::agent
