// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "control-plane/launcher/limits.h"

namespace hearth::launcher {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr int kFirstSafeFd = 16;  // Descriptors moved above it are not overwritten by 0 to 4.
constexpr uint64_t kMib = 1024 * 1024;

struct Limit {
  int resource;
  uint64_t value;
};

// What the child needs and what it tells, in memory that both see: the parent stands still until
// the child has executed the program or given up.
struct Child {
  const SpawnSpec* spec;
  int executable;
  int control;
  int kvm;
  std::array<Limit, 6> limits;
  const char* failed_step;
  int error;
};

[[noreturn]] void GiveUp(Child* child, const char* step) {
  child->failed_step = step;
  child->error = errno;
  syscall(SYS_exit_group, 127);
  __builtin_unreachable();
}

// The child shares the parent's memory until it executes: nothing here may allocate, lock or leave
// a trace in the state of the C library, or of a sanitizer that stands between. So system calls
// only.
__attribute__((no_sanitize("address", "thread", "undefined"))) int RunChild(void* argument) {
  Child* const child = static_cast<Child*>(argument);
  const SpawnSpec& spec = *child->spec;
  const int standard[] = {spec.null, spec.null, spec.error, child->control, child->kvm};
  for (int fd = 0; fd < 5; ++fd) {
    if (syscall(SYS_dup2, standard[fd], fd) < 0) GiveUp(child, "dup2");
  }
  // The executable among them stays until it has been executed.
  if (syscall(SYS_close_range, 5u, ~0u, CLOSE_RANGE_CLOEXEC) != 0) GiveUp(child, "close_range");
  syscall(SYS_setsid);
  for (const Limit& limit : child->limits) {
    const rlimit value{limit.value, limit.value};
    if (syscall(SYS_setrlimit, limit.resource, &value) != 0) GiveUp(child, "setrlimit");
  }
  if (syscall(SYS_setgroups, 0, nullptr) != 0) GiveUp(child, "setgroups");
  if (syscall(SYS_setresgid, spec.uid, spec.uid, spec.uid) != 0) GiveUp(child, "setresgid");
  if (syscall(SYS_setresuid, spec.uid, spec.uid, spec.uid) != 0) GiveUp(child, "setresuid");
  if (syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    GiveUp(child, "prctl(PR_SET_NO_NEW_PRIVS)");
  }
  // After the uids, whose change would undo it. The launcher has one thread, so the thread that it
  // follows is the launcher.
  if (syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) {
    GiveUp(child, "prctl(PR_SET_PDEATHSIG)");
  }
  const uint64_t none = 0;  // The kernel's set of signals, not the C library's longer one.
  if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof(none)) != 0) {
    GiveUp(child, "rt_sigprocmask");
  }
  const char* const arguments[] = {"hearth-vmm", "--control-fd=3", "--kvm-fd=4", nullptr};
  const char* const environment[] = {nullptr};
  syscall(SYS_execveat, child->executable, "", arguments, environment, AT_EMPTY_PATH);
  GiveUp(child, "execveat");
}

// clone3 with a stack of the child's own, which the C library has no function for. The child calls
// `function` and never returns.
__attribute__((no_sanitize("address", "thread", "undefined"))) long Clone3(clone_args* arguments,
                                                                           int (*function)(void*),
                                                                           void* argument) {
#if defined(__x86_64__)
  long result = SYS_clone3;
  register int (*kept_function)(void*) asm("r12") = function;
  register void* kept_argument asm("r13") = argument;
  asm volatile(
      "syscall\n\t"
      "testq %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xorl %%ebp, %%ebp\n\t"
      "movq %%r13, %%rdi\n\t"
      "callq *%%r12\n\t"
      "hlt\n"
      "1:"
      : "+a"(result)
      : "D"(arguments), "S"(sizeof(*arguments)), "r"(kept_function), "r"(kept_argument)
      : "rcx", "r11", "memory");
  return result;
#else
#error "the launcher knows only x86-64"
#endif
}

uint64_t AddressSpace(uint64_t memory_mib) {
  return memory_mib == 0 ? RLIM_INFINITY : (memory_mib + kAddressSpaceMib) * kMib;
}

absl::StatusOr<UniqueFd> MoveAbove(int fd) {
  UniqueFd moved(fcntl(fd, F_DUPFD_CLOEXEC, kFirstSafeFd));
  if (!moved) return ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
  return moved;
}

class Stack {
 public:
  Stack()
      : bytes_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0)) {}
  ~Stack() {
    if (bytes_ != MAP_FAILED) munmap(bytes_, kStackBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  bool mapped() const { return bytes_ != MAP_FAILED; }
  uint64_t address() const { return reinterpret_cast<uintptr_t>(bytes_); }

 private:
  void* const bytes_;
};

}  // namespace

absl::StatusOr<Spawned> SpawnJailed(const SpawnSpec& spec) {
  const Stack stack;
  if (!stack.mapped()) return ErrnoStatus("mmap of a stack");
  ASSIGN_OR_RETURN(UniqueFd executable, MoveAbove(spec.executable));
  ASSIGN_OR_RETURN(UniqueFd control, MoveAbove(spec.control));
  ASSIGN_OR_RETURN(UniqueFd kvm, MoveAbove(spec.kvm));
  Child child{};
  child.spec = &spec;
  child.executable = executable.get();
  child.control = control.get();
  child.kvm = kvm.get();
  child.limits = {{{RLIMIT_NOFILE, kMaxOpenFiles},
                   {RLIMIT_FSIZE, kMaxFileMib * kMib},
                   {RLIMIT_CORE, 0},
                   {RLIMIT_NPROC, kMaxThreads},
                   {RLIMIT_AS, AddressSpace(spec.memory_mib)},
                   {RLIMIT_MEMLOCK, 0}}};

  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_NEWNS |
                    CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  if (spec.cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<uint64_t>(spec.cgroup);
  }
  arguments.pidfd = reinterpret_cast<uintptr_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  arguments.stack = stack.address();
  arguments.stack_size = kStackBytes;
  const long pid = Clone3(&arguments, RunChild, &child);
  if (pid < 0) return ErrnoStatus(static_cast<int>(-pid), "clone3");
  Spawned spawned;
  spawned.pid = static_cast<pid_t>(pid);
  spawned.pidfd.reset(pidfd);
  if (child.failed_step == nullptr) return spawned;
  siginfo_t info{};
  syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED, nullptr);
  return ErrnoStatus(child.error, absl::StrCat("preparing a VMM's process: ", child.failed_step));
}

absl::Status LimitMemory(pid_t pid, uint32_t uid, uint64_t memory_mib) {
  const rlimit value{AddressSpace(memory_mib), AddressSpace(memory_mib)};
  if (prlimit(pid, RLIMIT_AS, &value, nullptr) == 0) return absl::OkStatus();
  if (errno != EPERM) return ErrnoStatus("prlimit(RLIMIT_AS)");
  // Another user's limits take CAP_SYS_RESOURCE, which containers often lack; lowering those of
  // one's own user takes nothing.
  const pid_t helper = fork();
  if (helper < 0) return ErrnoStatus("fork");
  if (helper == 0) {
    const bool lowered =
        syscall(SYS_setgroups, 0, nullptr) == 0 && syscall(SYS_setresgid, uid, uid, uid) == 0 &&
        syscall(SYS_setresuid, uid, uid, uid) == 0 && prlimit(pid, RLIMIT_AS, &value, nullptr) == 0;
    _exit(lowered ? 0 : 1);
  }
  int status = 0;
  while (waitpid(helper, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError("a VMM's address space could not be limited");
}

}  // namespace hearth::launcher
