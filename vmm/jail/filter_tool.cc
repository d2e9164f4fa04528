// SPDX-License-Identifier: Apache-2.0
// Runs while Hearth is built: compiles the rules below with libseccomp and prints them as the
// header vmm/jail/filters.h, so that a VMM links no libseccomp and spends no time on it.
//
// A rule's reason stands beside it. What is not here kills the process: above all open, socket,
// connect, execve, clone, ptrace, and any mapping that could be executed.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <vector>

#include "vmm/kvm/kvm_headers.h"

namespace {

class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_KILL_PROCESS)) {
    Check(context_ == nullptr, "seccomp_init");
    // A binary tree of comparisons instead of a list.
    Check(seccomp_attr_set(context_, SCMP_FLTATR_CTL_OPTIMIZE, 2) != 0, "optimize");
    Check(seccomp_attr_set(context_, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) != 0, "arch");
  }
  ~Filter() { seccomp_release(context_); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = delete;

  void Allow(std::initializer_list<int> calls) {
    for (const int call : calls) Check(seccomp_rule_add(context_, SCMP_ACT_ALLOW, call, 0), "add");
  }
  void AllowIf(int call, std::vector<scmp_arg_cmp> conditions) {
    Check(seccomp_rule_add_array(context_, SCMP_ACT_ALLOW, call,
                                 static_cast<unsigned>(conditions.size()), conditions.data()),
          "add with conditions");
  }

  void Print(const char* name) {
    FILE* file = std::tmpfile();
    Check(file == nullptr, "tmpfile");
    Check(seccomp_export_bpf(context_, fileno(file)), "export");
    Check(lseek(fileno(file), 0, SEEK_SET) != 0, "lseek");
    std::printf("inline constexpr sock_filter %s[] = {\n", name);
    sock_filter op;
    while (read(fileno(file), &op, sizeof(op)) == sizeof(op)) {
      std::printf("    {0x%x, %u, %u, 0x%x},\n", op.code, op.jt, op.jf, op.k);
    }
    std::printf("};\n");
    std::fclose(file);
  }

 private:
  static void Check(int failed, const char* what) {
    if (failed == 0) return;
    std::fprintf(stderr, "filter_tool: %s failed\n", what);
    std::exit(1);
  }

  scmp_filter_ctx context_;
};

scmp_arg_cmp ArgumentIs(unsigned index, scmp_datum_t value) {
  return {index, SCMP_CMP_EQ, value, 0};
}
scmp_arg_cmp ArgumentHas(unsigned index, scmp_datum_t mask, scmp_datum_t value) {
  return {index, SCMP_CMP_MASKED_EQ, mask, value};
}

// What any thread of ours may do: memory without execution, locks, time, its own end.
void AllowCommon(Filter& filter) {
  filter.AllowIf(SCMP_SYS(mmap),
                 {ArgumentHas(2, PROT_EXEC, 0), ArgumentHas(3, MAP_ANONYMOUS, MAP_ANONYMOUS)});
  filter.AllowIf(SCMP_SYS(mprotect), {ArgumentHas(2, PROT_EXEC, 0)});
  filter.Allow({SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise)});
  filter.Allow({SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(nanosleep),
                SCMP_SYS(clock_nanosleep), SCMP_SYS(restart_syscall)});
  // Clocks are the vDSO's, except where the host's clock source cannot be read there; CPU clocks
  // always enter the kernel.
  filter.Allow({SCMP_SYS(clock_gettime)});
  filter.Allow({SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask)});
  filter.Allow({SCMP_SYS(exit), SCMP_SYS(exit_group)});
  // An eventfd wakes the loop, or another thread.
  filter.Allow({SCMP_SYS(write)});
}

// Guests write to the serial port: the console is given up when nobody reads it, and its flush
// timer set.
void AllowConsole(Filter& filter) { filter.Allow({SCMP_SYS(close), SCMP_SYS(timerfd_settime)}); }

void PrintMain() {
  Filter filter;
  AllowCommon(filter);
  AllowConsole(filter);
  filter.Allow({SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl), SCMP_SYS(read)});
  // The control socket and the host ends of vsock connections.
  filter.Allow({SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(shutdown)});
  filter.AllowIf(SCMP_SYS(socketpair), {ArgumentIs(0, AF_UNIX)});
  // Is a descriptor that the controller passed a stream socket?
  filter.Allow({SCMP_SYS(getsockopt)});
  // Disks.
  filter.Allow({SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
                SCMP_SYS(fdatasync)});
  // virtio-rng.
  filter.Allow({SCMP_SYS(getrandom)});
  // Kicking and joining the vCPU threads.
  filter.Allow({SCMP_SYS(tgkill), SCMP_SYS(getpid)});
  // Page faults, for the statistics.
  filter.AllowIf(SCMP_SYS(getrusage), {ArgumentIs(0, RUSAGE_SELF)});
  // Saving: are the files empty, the memory file's size, and what KVM holds of the machine. Nothing
  // here changes it but KVM_KVMCLOCK_CTRL, which tells the guest's watchdog of a pause.
  filter.Allow({SCMP_SYS(fstat), SCMP_SYS(ftruncate)});
  filter.AllowIf(SCMP_SYS(newfstatat), {ArgumentIs(3, AT_EMPTY_PATH)});
  constexpr unsigned long kSaving[] = {
      KVM_CHECK_EXTENSION, KVM_GET_MSR_INDEX_LIST, KVM_GET_MP_STATE, KVM_GET_REGS,
      KVM_GET_SREGS,       KVM_GET_XSAVE,          KVM_GET_XSAVE2,   KVM_GET_XCRS,
      KVM_GET_DEBUGREGS,   KVM_GET_LAPIC,          KVM_GET_MSRS,     KVM_GET_VCPU_EVENTS,
      KVM_GET_TSC_KHZ,     KVM_GET_DEVICE_ATTR,    KVM_GET_CLOCK,    KVM_GET_IRQCHIP,
      KVM_KVMCLOCK_CTRL};
  for (const unsigned long request : kSaving) {
    filter.AllowIf(SCMP_SYS(ioctl), {ArgumentIs(1, request)});
  }
  filter.Print("kMainFilter");
}

void PrintVcpu() {
  Filter filter;
  AllowCommon(filter);
  AllowConsole(filter);
  filter.AllowIf(SCMP_SYS(ioctl), {ArgumentIs(1, KVM_RUN)});
  // For the report of an instruction that KVM cannot emulate.
  filter.AllowIf(SCMP_SYS(ioctl), {ArgumentIs(1, KVM_GET_REGS)});
  filter.Print("kVcpuFilter");
}

void PrintPagerWatch() {
  Filter filter;
  AllowCommon(filter);
  filter.Allow({SCMP_SYS(poll), SCMP_SYS(ppoll)});
  // The memory is forbidden (mprotect); then whoever waits for one of its pages is woken.
  filter.AllowIf(SCMP_SYS(ioctl), {ArgumentIs(1, UFFDIO_WAKE)});
  filter.Print("kPagerWatchFilter");
}

}  // namespace

int main() {
  std::printf(
      "// SPDX-License-Identifier: Apache-2.0\n"
      "// Made by filter_tool.\n"
      "#pragma once\n\n"
      "#include <linux/filter.h>\n\n"
      "namespace hearth::vmm {\n\n");
  PrintMain();
  PrintVcpu();
  PrintPagerWatch();
  std::printf("}  // namespace hearth::vmm\n");
  return 0;
}
