// SPDX-License-Identifier: Apache-2.0
#include "vmm/jail/jail.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <thread>
#include <vector>

#include "vmm/base/mutex.h"
#include "vmm/kvm/kvm_headers.h"

namespace hearth::vmm {
namespace {

bool Available() {
  if (JailAvailable()) return true;
  std::printf("SKIPPED: the filters are not loaded in a build with a sanitizer\n");
  return false;
}

// How a process ends that enters the jail and then acts.
int StatusAfter(ThreadKind kind, void (*act)()) {
  const pid_t child = fork();
  if (child == 0) {
    if (!EnterJail(kind).ok()) _exit(99);
    act();
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}
bool Killed(ThreadKind kind, void (*act)()) {
  const int status = StatusAfter(kind, act);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}
bool Survives(ThreadKind kind, void (*act)()) {
  const int status = StatusAfter(kind, act);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

constexpr ThreadKind kEach[] = {ThreadKind::kMain, ThreadKind::kVcpu, ThreadKind::kPagerWatch};

TEST_CASE("jail: what no thread may do kills the process") {
  if (!Available()) return;
  for (const ThreadKind kind : kEach) {
    CHECK(Killed(kind, [] { [[maybe_unused]] int fd = open("/etc/passwd", O_RDONLY); }));
    CHECK(Killed(kind, [] { socket(AF_INET, SOCK_STREAM, 0); }));
    CHECK(Killed(kind, [] { execl("/bin/true", "true", nullptr); }));
    CHECK(Killed(kind, [] { fork(); }));
    CHECK(Killed(kind, [] { kill(1, 0); }));
    CHECK(Killed(kind, [] { [[maybe_unused]] int error = setuid(0); }));
    CHECK(Killed(kind, [] {
      mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }));
    CHECK(Killed(kind, [] { mmap(nullptr, 4096, PROT_READ, MAP_SHARED, 0, 0); }));
    CHECK(Killed(kind, [] { ioctl(0, KVM_CREATE_VM, 0); }));
  }
}

TEST_CASE("jail: each kind of thread has what only it needs") {
  if (!Available()) return;
  const auto run_vcpu = [] { ioctl(-1, KVM_RUN, 0); };
  CHECK(Survives(ThreadKind::kVcpu, run_vcpu));
  CHECK(Killed(ThreadKind::kMain, run_vcpu));
  const auto read_disk = [] {
    char byte;
    [[maybe_unused]] const ssize_t count = pread(-1, &byte, 1, 0);
  };
  CHECK(Survives(ThreadKind::kMain, read_disk));
  CHECK(Killed(ThreadKind::kVcpu, read_disk));
  const auto make_pair = [] {
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
  };
  CHECK(Survives(ThreadKind::kMain, make_pair));
  CHECK(Killed(ThreadKind::kVcpu, make_pair));
}

TEST_CASE("jail: only the loop's thread watches descriptors and ends connections") {
  if (!Available()) return;
  const auto watch = [] { epoll_ctl(-1, EPOLL_CTL_ADD, -1, nullptr); };
  const auto end = [] { shutdown(-1, SHUT_RDWR); };
  for (void (*const act)() : {+watch, +end}) {
    CHECK(Survives(ThreadKind::kMain, act));
    CHECK(Killed(ThreadKind::kVcpu, act));
    CHECK(Killed(ThreadKind::kPagerWatch, act));
  }
}

TEST_CASE("jail: only who runs a guest or serves it closes its console and sets a timer for it") {
  if (!Available()) return;
  const auto set_timer = [] { timerfd_settime(-1, 0, nullptr, nullptr); };
  const auto give_up = [] { close(-1); };
  for (void (*const act)() : {+set_timer, +give_up}) {
    CHECK(Survives(ThreadKind::kMain, act));
    CHECK(Survives(ThreadKind::kVcpu, act));
    CHECK(Killed(ThreadKind::kPagerWatch, act));
  }
}

TEST_CASE("jail: what needs no message header, and a descriptor's flags, are nobody's") {
  if (!Available()) return;
  for (const ThreadKind kind : kEach) {
    CHECK(Killed(kind, [] {
      char byte = 0;
      [[maybe_unused]] const ssize_t count = recv(-1, &byte, 1, 0);
    }));
    CHECK(Killed(kind, [] { [[maybe_unused]] const ssize_t count = send(-1, "", 1, 0); }));
    CHECK(Killed(kind, [] { fcntl(0, F_GETFL); }));
    CHECK(Killed(kind, [] { fcntl(0, F_SETFL, O_NONBLOCK); }));
  }
}

TEST_CASE("jail: only the thread that watches a pager waits for it and wakes who waits for pages") {
  if (!Available()) return;
  const auto watch = [] {
    pollfd entry{-1, POLLIN, 0};
    poll(&entry, 1, 0);
    ioctl(-1, UFFDIO_WAKE, nullptr);
  };
  CHECK(Survives(ThreadKind::kPagerWatch, watch));
  CHECK(Killed(ThreadKind::kMain, watch));
  CHECK(Killed(ThreadKind::kVcpu, watch));
  CHECK(Killed(ThreadKind::kPagerWatch, [] { ioctl(-1, UFFDIO_COPY, nullptr); }));
  CHECK(Killed(ThreadKind::kPagerWatch, [] { ioctl(-1, KVM_RUN, 0); }));
}

TEST_CASE("jail: a machine is saved by the main thread, and nothing else about KVM is its to do") {
  if (!Available()) return;
  const auto save = [] {
    ioctl(-1, KVM_GET_SREGS, nullptr);
    ioctl(-1, KVM_GET_MSRS, nullptr);
    ioctl(-1, KVM_GET_IRQCHIP, nullptr);
    ioctl(-1, KVM_GET_CLOCK, nullptr);
    ioctl(-1, KVM_KVMCLOCK_CTRL, nullptr);
    struct stat info;
    fstat(-1, &info);
    [[maybe_unused]] const int error = ftruncate(-1, 0);
  };
  CHECK(Survives(ThreadKind::kMain, save));
  CHECK(Killed(ThreadKind::kVcpu, save));
  for (const ThreadKind kind : kEach) {
    CHECK(Killed(kind, [] { ioctl(-1, KVM_SET_SREGS, nullptr); }));
    CHECK(Killed(kind, [] { ioctl(-1, KVM_SET_MSRS, nullptr); }));
    CHECK(Killed(kind, [] { ioctl(-1, KVM_SET_USER_MEMORY_REGION, nullptr); }));
    CHECK(Killed(kind, [] { ioctl(-1, KVM_CREATE_VCPU, nullptr); }));
    CHECK(Killed(kind, [] {
      struct stat info;
      stat("/etc/passwd", &info);
    }));
  }
}

TEST_CASE("jail: any number of threads may wait for a lock") {
  if (!Available()) return;
  constexpr int kThreads = 4;
  constexpr int kRounds = 50'000;
  const pid_t child = fork();
  if (child == 0) {
    Mutex mutex;
    int count = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        if (!EnterJail(ThreadKind::kVcpu).ok()) _exit(99);
        for (int round = 0; round < kRounds; ++round) {
          MutexLock lock(&mutex);
          ++count;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    _exit(count == kThreads * kRounds ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("jail: memory and time are there for every thread") {
  if (!Available()) return;
  for (const ThreadKind kind : kEach) {
    CHECK(Survives(kind, [] {
      delete[] new char[1 << 20];
      timespec now;
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    }));
  }
}

}  // namespace
}  // namespace hearth::vmm
