// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "agent/accounting.h"
#include "agent/boot.h"
#include "agent/context.h"
#include "agent/mounts.h"

namespace hearth::agent {
namespace {

UsageSnapshot At(uint64_t peak, uint64_t current, uint64_t resident, uint64_t resident_peak) {
  UsageSnapshot snapshot;
  snapshot.memory_peak_bytes = peak;
  snapshot.memory_current_bytes = current;
  snapshot.resident_bytes = resident;
  snapshot.resident_peak_bytes = resident_peak;
  return snapshot;
}

TEST_CASE("usage: a life's peak that grew is the invocation's peak") {
  REQUIRE(UsageBetween(At(100, 50, 40, 40), At(120, 60, 45, 45), 0).peak_memory_bytes() == 120);
}

TEST_CASE(
    "usage: else the peak is what was seen, grown by the resident peaks, never over the life's") {
  REQUIRE(UsageBetween(At(100, 50, 40, 40), At(100, 55, 45, 45), 0).peak_memory_bytes() == 55);
  REQUIRE(UsageBetween(At(100, 50, 40, 40), At(100, 55, 45, 45), 70).peak_memory_bytes() == 70);
  REQUIRE(UsageBetween(At(100, 50, 40, 40), At(100, 55, 45, 75), 70).peak_memory_bytes() == 85);
  REQUIRE(UsageBetween(At(100, 50, 40, 40), At(100, 55, 45, 200), 0).peak_memory_bytes() == 100);
}

TEST_CASE("usage: counters that went back, as when a process vanished, count as nothing") {
  UsageSnapshot begin;
  begin.io = {1000, 1000};
  begin.user_cpu_ns = 5;
  UsageSnapshot end;
  end.io = {400, 1500};
  end.monotonic_ns = 7;
  const agent::v1::ProcessUsage usage = UsageBetween(begin, end, 0);
  REQUIRE(usage.read_bytes() == 0);
  REQUIRE(usage.written_bytes() == 500);
  REQUIRE(usage.user_cpu_ns() == 0);
  REQUIRE(usage.wall_ns() == 7);
}

TEST_CASE("boot: the transport is named on the kernel's command line, or any") {
  REQUIRE(*TransportOf("console=ttyS0 quiet\n") == Transport::kAny);
  REQUIRE(*TransportOf("quiet hearth.transport=vsock\n") == Transport::kVsock);
  REQUIRE(*TransportOf("hearth.transport=virtio-serial x=y") == Transport::kVirtioSerial);
  REQUIRE(TransportOf("hearth.transport=tcp").status().message() ==
          "hearth.transport=tcp: vsock and virtio-serial are known");
}

TEST_CASE(
    "mounts: a disk is found by its serial number, and a missing one is named with the rest") {
  char name[] = "/tmp/hearth-sys-block-XXXXXX";
  const std::filesystem::path root = mkdtemp(name);
  for (const auto& [disk, serial] : {std::pair{"vda", "agent"}, {"vdb", "runtime"}}) {
    std::filesystem::create_directory(root / disk);
    std::ofstream(root / disk / "serial") << serial;
  }
  std::filesystem::create_directory(root / "sda");
  REQUIRE(*FindDisk("runtime", root) == "/dev/vdb");
  REQUIRE(FindDisk("code", root).status().message() ==
          "no disk with serial number code; there are: vda=agent vdb=runtime");
  std::filesystem::remove_all(root);
}

TEST_CASE("environment: the process's wins over the instance's, the agent's over both") {
  Instance instance;
  instance.environment = {{"A", "instance"}, {"B", "instance"}, {"TZ", "Asia/Tokyo"}};
  agent::v1::ProcessSpec process;
  process.add_arguments("x");
  (*process.mutable_environment())["B"] = "process";
  (*process.mutable_environment())["_HANDLER"] = "process";
  const SpawnRequest request = MakeSpawnRequest(instance, process, {{"_HANDLER", "agent"}});
  const auto has = [&](const std::string& entry) {
    return std::find(request.environment.begin(), request.environment.end(), entry) !=
           request.environment.end();
  };
  REQUIRE(has("A=instance"));
  REQUIRE(has("B=process"));
  REQUIRE(has("_HANDLER=agent"));
  REQUIRE(has("TZ=Asia/Tokyo"));
  REQUIRE(has("LAMBDA_TASK_ROOT=/var/task"));
  REQUIRE(request.working_directory == "/var/task");
}

TEST_CASE("event loop: timers fire in order, a cancelled one not at all") {
  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  std::string fired;
  loop->After(2'000'000, [&] { fired += "b"; });
  loop->After(1'000'000, [&] { fired += "a"; });
  const EventLoop::TimerId cancelled = loop->After(1'500'000, [&] { fired += "x"; });
  loop->After(3'000'000, [&] { fired += "c"; });
  loop->Cancel(cancelled);
  while (fired.size() < 3) REQUIRE(loop->RunOnce().ok());
  REQUIRE(fired == "abc");
}

}  // namespace
}  // namespace hearth::agent
