// SPDX-License-Identifier: Apache-2.0
// Machines in this process, so that ThreadSanitizer sees the races of pause, kick and stop.
#include "vmm/machine/machine.h"

#include <catch2/catch.hpp>

#include "tests/vmm/test_machine.h"
#include "vmm/testing/busy_guest.h"

namespace hearth::vmm::testing {
namespace {

TEST_CASE("machine: a paused guest stands still, and its last port access is committed") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(CountingCode()));
  REQUIRE(machine->Start().ok());
  constexpr uint32_t kIncBytes = 6;  // incl 0x200000, then out.
  for (int round = 0; round < 300; ++round) {
    REQUIRE(machine->Pause().ok());
    const uint32_t counter = machine.Counter();
    const uint64_t writes = machine->Statistics().guest_errors;
    const auto regs = machine->vcpu().GetRegs();
    REQUIRE(regs.ok());
    // The guest counts, then writes: between the two it is one ahead. A write that was not
    // committed would show as RIP before the write with equal counts.
    const bool before_write = regs->rip == kCodeAddress + kIncBytes;
    REQUIRE(counter == writes + (before_write ? 1 : 0));
    REQUIRE(machine.Counter() == counter);
    REQUIRE(machine->Resume().ok());
  }
  CHECK(machine->StopForced().ok());
  CHECK(machine.AwaitExit().reason == ExitReason::kStopped);
}

TEST_CASE("machine: a guest makes progress between a resume and the next pause, every time") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(SpinningCode()));
  REQUIRE(machine->Start().ok());
  for (int round = 0; round < 200; ++round) {
    const uint32_t before = machine.Counter();
    while (machine.Counter() == before) {
    }
    REQUIRE(machine->Pause().ok());
    REQUIRE(machine->Resume().ok());
  }
}

TEST_CASE("machine: kicks are not lost, whatever the guest does") {
  REQUIRE_KVM();
  for (const std::string& code : {SpinningCode(), CountingCode(), HaltCode()}) {
    TestMachine machine(KernelOf(code));
    REQUIRE(machine->Start().ok());
    for (int round = 0; round < 1000; ++round) {
      REQUIRE(machine->Pause().ok());
      REQUIRE(machine->Resume().ok());
    }
    REQUIRE(machine->StopForced().ok());
    CHECK(machine.AwaitExit().reason == ExitReason::kStopped);
  }
}

TEST_CASE("machine: stopping races with starting, pausing and the guest's own end") {
  REQUIRE_KVM();
  const std::string kernels[] = {KernelOf(SpinningCode()), KernelOf(HaltCode()),
                                 KernelOf(DoNothingCode()), KernelOf(TripleFaultCode())};
  for (int round = 0; round < 120; ++round) {
    TestMachine machine(kernels[round % 4]);
    REQUIRE(machine->Start().ok());
    if (round % 3 == 1) machine->Pause().IgnoreError();
    if (round % 3 == 2) machine.RunDueCallbacks();
    machine->StopForced().IgnoreError();
    const ExitOutcome outcome = machine.AwaitExit();
    const bool can_end = round % 4 >= 2;
    CHECK((outcome.reason == ExitReason::kStopped || can_end));
    CHECK(machine->state() == MachineState::kExited);
    CHECK(machine->StopForced().code() == absl::StatusCode::kFailedPrecondition);
  }
}

TEST_CASE("machine: it can be destroyed in every state") {
  REQUIRE_KVM();
  for (int round = 0; round < 60; ++round) {
    TestMachine machine(KernelOf(round % 2 == 0 ? CountingCode() : DoNothingCode()));
    if (round % 5 > 0) REQUIRE(machine->Start().ok());
    if (round % 5 > 1) REQUIRE(machine->Pause().ok());
    if (round % 5 > 2) machine->Resume().IgnoreError();
    if (round % 5 > 3) machine->StopOrderly(60'000).IgnoreError();
    machine.Destroy();
    machine.RunDueCallbacks();
  }
}

TEST_CASE("machine: an orderly stop ends with the guest's own reset when that comes in time") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(HelloCode(std::string(100, 'x'))));
  REQUIRE(machine->Start().ok());
  REQUIRE(machine->StopOrderly(60'000).ok());
  CHECK(machine.AwaitExit().reason == ExitReason::kGuestReset);
}

TEST_CASE("machine: a paused guest is resumed for an orderly stop") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(HelloCode(std::string(1000, 'x'))));
  REQUIRE(machine->Start().ok());
  REQUIRE(machine->Pause().ok());
  if (machine->StopOrderly(60'000).ok()) {
    CHECK(machine.AwaitExit().reason == ExitReason::kGuestReset);
  }
}

TEST_CASE("machine: a guest is told that it was paused, also by an orderly stop") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(PauseNoticingCode()));
  REQUIRE(machine->Start().ok());
  const uint32_t before = machine.Counter();
  REQUIRE(machine.AwaitChange(kCounterAddress, before));
  REQUIRE(machine->Pause().ok());
  const bool stops = GENERATE(false, true);
  REQUIRE((stops ? machine->StopOrderly(60'000) : machine->Resume()).ok());
  CHECK(machine.AwaitExit().reason == ExitReason::kGuestReset);
}

TEST_CASE("machine: statistics can be read at any moment") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(CountingCode()));
  REQUIRE(machine->Start().ok());
  uint64_t last = 0;
  for (int round = 0; round < 500; ++round) {
    const MachineStatistics now = machine->Statistics();
    REQUIRE(now.exits >= last);
    last = now.exits;
  }
  REQUIRE(machine->StopForced().ok());
  machine.AwaitExit();
  CHECK(machine->Statistics().vcpu_cpu_ns > 0);
}

TEST_CASE("machine: the guest starts 2 and 8 vCPUs, and all of them pause, go on and stop") {
  REQUIRE_KVM();
  for (const uint32_t vcpus : {2u, 8u}) {
    TestMachine machine(KernelOf(BusyCode()), vcpus);
    REQUIRE(machine->vcpu_count() == vcpus);
    REQUIRE(machine->Start().ok());
    for (int round = 0; round < 20; ++round) {
      for (uint32_t id = 1; id < vcpus; ++id) {
        REQUIRE(machine.AwaitChange(kBusyOthers + 4 * id, machine.Word(kBusyOthers + 4 * id)));
      }
      REQUIRE(machine->Pause().ok());
      uint32_t before[8], after[8];
      for (uint32_t id = 0; id < vcpus; ++id) before[id] = machine.Word(kBusyOthers + 4 * id);
      for (int i = 0; i < 1000; ++i) sched_yield();
      for (uint32_t id = 0; id < vcpus; ++id) after[id] = machine.Word(kBusyOthers + 4 * id);
      REQUIRE(std::equal(before, before + vcpus, after));
      REQUIRE(machine->Resume().ok());
    }
    CHECK(machine.Word(kBusyOthers) == 0);  // vCPU 0 is none of the others.
    REQUIRE(machine->StopForced().ok());
    CHECK(machine.AwaitExit().reason == ExitReason::kStopped);
    CHECK(machine->Statistics().vcpu_cpu_ns > 0);
  }
}

TEST_CASE("machine: vCPUs that the guest never starts can be paused and stopped") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(SpinningCode()), 4);
  REQUIRE(machine->Start().ok());
  for (int round = 0; round < 100; ++round) {
    REQUIRE(machine->Pause().ok());
    REQUIRE(machine->Resume().ok());
  }
  REQUIRE(machine->StopForced().ok());
  CHECK(machine.AwaitExit().reason == ExitReason::kStopped);
}

}  // namespace
}  // namespace hearth::vmm::testing
