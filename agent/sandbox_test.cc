// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>

namespace hearth::agent {
namespace {

constexpr uint32_t kX32Bit = 0x40000000;

// What the kernel would make of a system call; of BPF as much as the filter uses.
uint32_t Judge(uint32_t arch, uint32_t number, uint64_t first_argument = 0) {
  seccomp_data data = {};
  data.arch = arch;
  data.nr = static_cast<int>(number);
  data.args[0] = first_argument;
  const auto filter = SystemCallFilter();
  uint32_t loaded = 0;
  for (size_t at = 0; at < filter.size(); ++at) {
    const sock_filter& step = filter[at];
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&loaded, reinterpret_cast<const char*>(&data) + step.k, sizeof(loaded));
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += loaded == step.k ? step.jt : step.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += loaded >= step.k ? step.jt : step.jf;
        break;
      case BPF_RET | BPF_K:
        return step.k;
      default:
        FAIL("the filter has a step that this test does not know: " << step.code);
    }
  }
  FAIL("the filter has no end");
  return 0;
}

constexpr uint32_t Refused(uint32_t error) { return SECCOMP_RET_ERRNO | error; }

TEST_CASE("sandbox: of sockets only those of vsock are refused, whatever lies in the upper half") {
  CHECK(Judge(AUDIT_ARCH_X86_64, SYS_socket, AF_VSOCK) == Refused(EAFNOSUPPORT));
  CHECK(Judge(AUDIT_ARCH_X86_64, SYS_socket, (uint64_t{1} << 32) | AF_VSOCK) ==
        Refused(EAFNOSUPPORT));
  for (const int family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK - 1, AF_VSOCK + 1}) {
    CHECK(Judge(AUDIT_ARCH_X86_64, SYS_socket, static_cast<uint64_t>(family)) == SECCOMP_RET_ALLOW);
  }
}

TEST_CASE("sandbox: there is no io_uring, which makes sockets by itself, and all else there is") {
  for (uint32_t number = 0; number < 1024; ++number) {
    INFO(number);
    REQUIRE(Judge(AUDIT_ARCH_X86_64, number) ==
            (number == SYS_io_uring_setup ? Refused(ENOSYS) : SECCOMP_RET_ALLOW));
  }
}

TEST_CASE("sandbox: the system call tables of x32 and of 32-bit programs do not exist") {
  for (const uint32_t number : {uint32_t{SYS_socket}, uint32_t{SYS_read}, 359U, 102U}) {
    CHECK(Judge(AUDIT_ARCH_X86_64, kX32Bit | number, AF_VSOCK) == Refused(ENOSYS));
    CHECK(Judge(AUDIT_ARCH_I386, number, AF_VSOCK) == Refused(ENOSYS));
  }
  CHECK(Judge(AUDIT_ARCH_X86_64, UINT32_MAX) == Refused(ENOSYS));
}

}  // namespace
}  // namespace hearth::agent
