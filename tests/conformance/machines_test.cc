// SPDX-License-Identifier: Apache-2.0
// What every backend's machines do: run, stand still, tell what they use, end.
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <catch2/catch.hpp>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "tests/conformance/guest.h"

namespace hearth::conformance {
namespace {

using control::MachineExit;
using Ids = std::vector<std::string>;

// As long as the load would have taken a processor, or as good a share of ours as it can get.
constexpr absl::Duration kLook = absl::Milliseconds(300);
// What a process may need while its guest stands still: QEMU's and our own event loops.
constexpr absl::Duration kIdleAllowance = absl::Milliseconds(50);
constexpr uint64_t kMostOverheadBytes = 512 << 20;

void SpendProcessorTime(absl::Duration amount) {
  const auto spent = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return absl::DurationFromTimespec(time);
  };
  for (const absl::Duration begin = spent(); spent() < begin + amount;) {
  }
}

void AwaitProcessorTime(Guest& guest, absl::Duration amount) {
  const absl::Duration begin = guest.CpuTime();
  Await("processor time of a guest under load", [&] { return guest.CpuTime() >= begin + amount; });
}

void CheckStandsStill(Guest& guest) {
  const absl::Duration before = guest.CpuTime();
  SpendProcessorTime(kLook);
  const absl::Duration used = guest.CpuTime() - before;
  INFO("it used " << absl::FormatDuration(used));
  CHECK(used < kIdleAllowance);
}

TEST_CASE("capabilities are stated") {
  const control::BackendCapabilities has = World::Get().capabilities();
  CHECK_FALSE(has.name.empty());
  // Restored at once any number of times, it must have survived being saved.
  if (has.clones) CHECK(has.survives_save);
  if (const char* const transport = getenv("HEARTH_CONFORMANCE_TRANSPORT")) {
    CHECK(has.vsock == (std::string(transport) == "vsock"));
  }
  std::cout << std::boolalpha << "    backend " << has.name << ": clones " << has.clones
            << ", survives_save " << has.survives_save << ", hot_restore " << has.hot_restore
            << ", memory_sharing " << has.memory_sharing << ", vsock " << has.vsock << std::endl;
}

TEST_CASE("a machine runs, tells what it uses, stands still, goes on and ends in order") {
  World& world = World::Get();
  world.RequireNoMachine();
  const std::unique_ptr<Guest> guest = Guest::Create();
  CHECK(world.ListAlive() == Ids{guest->id()});
  CHECK(guest->machine().Pause().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(guest->machine().Resume().code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(guest->machine().Start().ok());
  CHECK(guest->machine().Start().code() == absl::StatusCode::kFailedPrecondition);
  guest->Connect();
  CHECK(guest->host().hello().boot_id().size() == 36);
  guest->Configure();
  CHECK(guest->Shell("echo from the guest") == "from the guest\n");

  const control::MachineStatistics booted = guest->Statistics();
  CHECK(booted.cpu > absl::ZeroDuration());
  CHECK(booted.resident_bytes > 0);
  CHECK(booted.resident_bytes < (uint64_t{kMemoryMib} << 20) + kMostOverheadBytes);
  CHECK(booted.block_read_bytes > 0);
  CHECK(guest->Shell("cat /var/task/data | wc -c") == std::to_string(kDataBytes) + "\n");
  const control::MachineStatistics read = guest->Statistics();
  CHECK(read.block_read_bytes >= booted.block_read_bytes + kDataBytes);
  CHECK(read.block_write_bytes == 0);  // It has no disk that it could write to.
  CHECK(read.cpu > booted.cpu);

  guest->StartLoad();
  AwaitProcessorTime(*guest, kLook);
  REQUIRE(guest->machine().Pause().ok());
  CheckStandsStill(*guest);
  CHECK(guest->Statistics().block_read_bytes >= read.block_read_bytes);
  CHECK(world.ListAlive() == Ids{guest->id()});
  REQUIRE(guest->machine().Resume().ok());
  CHECK(guest->machine().Resume().code() == absl::StatusCode::kFailedPrecondition);
  AwaitProcessorTime(*guest, kLook);
  CHECK(guest->Shell("echo awake") == "awake\n");

  const absl::Duration last = guest->CpuTime();
  CHECK_FALSE(guest->ended());
  guest->ShutDown();
  REQUIRE(guest->machine().Stop(absl::Now() + kPatience).ok());
  CheckGuestEnded(guest->AwaitExit());
  INFO(guest->Console());
  CHECK(absl::StrContains(guest->Console(), "hearth-agent: shut down"));
  CHECK(world.ListAlive().empty());
  CHECK(guest->CpuTime() >= last);
  CHECK(guest->machine().Statistics().status().code() == absl::StatusCode::kUnavailable);
  CHECK(guest->machine().Pause().code() == absl::StatusCode::kUnavailable);
  world.RequireNoMachine();
}

TEST_CASE("two machines at once are each other's no business") {
  World& world = World::Get();
  const std::unique_ptr<Guest> one = Guest::Boot();
  std::unique_ptr<Guest> other = Guest::Boot();
  Ids both = {one->id(), other->id()};
  CHECK(world.ListAlive() == both);
  CHECK(one->host().hello().boot_id() != other->host().hello().boot_id());
  CHECK(one->Shell("echo one > /tmp/name; cat /tmp/name") == "one\n");
  CHECK(other->Shell("cat /tmp/name 2>&1 || echo none").find("none") != std::string::npos);
  other.reset();
  CHECK(world.ListAlive() == Ids{one->id()});
  CHECK(one->Shell("cat /tmp/name") == "one\n");
}

TEST_CASE("a guest that does not end is ended at the deadline, and not before") {
  const std::unique_ptr<Guest> guest = Guest::Boot();
  const absl::Time deadline = absl::Now() + kLook;
  REQUIRE(guest->machine().Stop(deadline).ok());
  CHECK(absl::Now() >= deadline);
  const MachineExit exit = guest->AwaitExit();
  INFO(exit.detail);
  CHECK(exit.reason == MachineExit::Reason::kStopped);
  World::Get().RequireNoMachine();
}

TEST_CASE("a machine that is stopped by force, killed or destroyed is gone at once") {
  World& world = World::Get();
  const int way = GENERATE(0, 1, 2, 3);
  std::unique_ptr<Guest> guest = Guest::Create();
  if (way != 3) REQUIRE(guest->machine().Start().ok());
  if (way == 0) REQUIRE(guest->machine().Stop(absl::InfinitePast()).ok());
  if (way == 1) guest->machine().Kill();
  if (way < 2) {
    const MachineExit exit = guest->AwaitExit();
    INFO(exit.detail);
    CHECK(exit.reason == MachineExit::Reason::kStopped);
    CHECK(world.ListAlive().empty());
  }
  guest.reset();
  world.RequireNoMachine();
}

TEST_CASE("a process that is killed is told by its signal, and its machine is nobody's any more") {
  World& world = World::Get();
  const std::unique_ptr<Guest> guest = Guest::Create();
  REQUIRE(guest->machine().Start().ok());
  const std::vector<pid_t> processes = world.Machines();
  REQUIRE(processes.size() == 1);
  REQUIRE(kill(processes[0], SIGKILL) == 0);
  const MachineExit exit = guest->AwaitExit();
  INFO(exit.detail);
  CHECK((exit.reason == MachineExit::Reason::kLost ||
         exit.reason == MachineExit::Reason::kHostError));
  CHECK(absl::StrContains(exit.detail, world.through_daemon() ? "unexpectedly" : "signal 9"));
  CHECK(guest->machine().Pause().code() == absl::StatusCode::kUnavailable);
  world.RequireNoMachine();
}

}  // namespace
}  // namespace hearth::conformance
