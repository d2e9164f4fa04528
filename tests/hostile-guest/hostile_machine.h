// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "tests/hostile-guest/hostile_driver.h"
#include "tests/vmm/kvm_guard.h"
#include "vmm/testing/tiny_guest.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::vmm::testing {

inline constexpr int kHostilePatienceMs = 120'000;
inline constexpr uint32_t kHostPort = 1024;

struct HostileResult {
  v1::Exited exited;
  std::vector<uint32_t> yields;  // What the script's reads and waits gave.
  std::vector<VmmProcess::Event> events;
};

struct HostileVmm {
  VmmProcess process;
  UniqueFd console;  // To read from.
};

// Starts the script as the guest of a hearth-vmm of its own, jailed, with a read-only disk, a disk,
// an rng and a vsock.
inline HostileVmm StartHostile(const PokeScript& script, uint32_t vcpus = 1) {
  // Its log is full of the guest's errors.
  const UniqueFd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  auto process = VmmProcess::Spawn(HEARTH_VMM_BINARY, nowhere.get());
  REQUIRE(process.ok());
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd console(ends[0]);
  fcntl(console.get(), F_SETPIPE_SZ, 1 << 20);  // Nobody reads before the guest's end.
  std::vector<UniqueFd> fds;
  fds.push_back(MemoryFile(script.Kernel()));
  fds.emplace_back(ends[1]);
  fds.push_back(MemoryFile(std::string(64 << 10, 'r')));
  fds.push_back(MemoryFile(std::string(64 << 10, 'w')));
  v1::Request request = BasicCreateRequest(kRamBytes >> 20);
  v1::CreateMachine& create = *request.mutable_create();
  create.set_vcpu_count(vcpus);
  for (uint32_t fd : {2u, 3u}) {
    v1::Disk& disk = *create.add_disks();
    disk.set_fd(fd);
    disk.set_read_only(fd == 2);
    disk.set_serial("hostile");
  }
  create.set_entropy(true);
  create.mutable_vsock()->set_guest_cid(3);
  create.mutable_vsock()->add_guest_ports(kHostPort);
  const auto created = process->Call(std::move(request), std::move(fds));
  INFO(created.status().message());
  REQUIRE(created.ok());
  v1::Request start;
  start.mutable_start();
  REQUIRE(process->Call(std::move(start)).ok());
  return {*std::move(process), std::move(console)};
}

// Fails the test unless the VMM ends in an orderly way.
inline HostileResult RunHostile(const PokeScript& script, uint32_t vcpus = 1) {
  HostileVmm vmm = StartHostile(script, vcpus);
  HostileResult result;
  while (!result.exited.reason()) {
    auto event = vmm.process.NextEvent(kHostilePatienceMs);
    if (!event.ok()) {
      const auto status = vmm.process.Wait(kHostilePatienceMs);
      FAIL("the VMM's control socket: " << event.status().message() << "; its wait status is "
                                        << (status.ok() ? *status : -1));
    }
    if (event->event.has_exited()) result.exited = event->event.exited();
    result.events.push_back(*std::move(event));
  }
  const auto status = vmm.process.Wait(kHostilePatienceMs);
  REQUIRE(status.ok());
  REQUIRE(WIFEXITED(*status));
  REQUIRE(WEXITSTATUS(*status) == 0);
  uint32_t word;
  while (read(vmm.console.get(), &word, sizeof(word)) == sizeof(word))
    result.yields.push_back(word);
  return result;
}

// The script came to its end: the VMM survived all of it. Returns what it yielded.
inline std::vector<uint32_t> RunToEnd(const PokeScript& script, uint32_t vcpus = 1) {
  const HostileResult result = RunHostile(script, vcpus);
  INFO(result.exited.detail());
  REQUIRE(result.exited.reason() == v1::Exited::REASON_GUEST_RESET);
  return result.yields;
}

}  // namespace hearth::vmm::testing
