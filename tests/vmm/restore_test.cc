// SPDX-License-Identifier: Apache-2.0
// Tiny guests saved and restored in this process. Each guest faults when it finds anything changed
// (vmm/testing/busy_guest.h), so that it goes on is the proof.
#include <catch2/catch.hpp>

#include "tests/vmm/test_machine.h"
#include "vmm/testing/busy_guest.h"
#include "vmm/testing/mapping_flags.h"

namespace hearth::vmm::testing {
namespace {

// Runs until every vCPU has done something and vCPU 0 has had a tick; false when it ended.
bool AwaitProgress(TestMachine& machine) {
  const auto vcpus = static_cast<uint32_t>(machine->vcpu_count());
  if (!machine.AwaitChange(kBusyRounds, machine.Word(kBusyRounds)) ||
      !machine.AwaitChange(kBusyTicks, machine.Word(kBusyTicks))) {
    return false;
  }
  for (uint32_t id = 1; id < vcpus; ++id) {
    const uint32_t counter = kBusyOthers + 4 * id;
    if (!machine.AwaitChange(counter, machine.Word(counter))) return false;
  }
  return true;
}

// One machine after the other, each restored from the one before.
void RunGenerations(const BusyOptions& options, uint32_t vcpus, int generations) {
  auto machine = std::make_unique<TestMachine>(KernelOf(BusyCode(options)), vcpus);
  REQUIRE((*machine)->Start().ok());
  for (int generation = 0; generation < generations; ++generation) {
    INFO("generation " << generation);
    const bool alive = AwaitProgress(*machine);
    INFO((alive ? "" : machine->AwaitExit().detail));
    REQUIRE(alive);
    REQUIRE((*machine)->Pause().ok());
    const uint32_t rounds = machine->Word(kBusyRounds);
    const SavedFiles saved = machine->Save();
    machine = std::make_unique<TestMachine>(saved);
    REQUIRE((*machine)->state() == MachineState::kPaused);
    REQUIRE((*machine)->vcpu_count() == vcpus);
    REQUIRE(machine->Word(kBusyRounds) == rounds);
    REQUIRE((*machine)->Resume().ok());
  }
  REQUIRE(AwaitProgress(*machine));
}

void CountAndPause(TestMachine& machine) {
  REQUIRE(machine->Start().ok());
  REQUIRE(machine.AwaitChange(kCounterAddress, 0));
  REQUIRE(machine->Pause().ok());
}

TEST_CASE("restore: a guest that counts goes on where it was, and so does its copy") {
  REQUIRE_KVM();
  TestMachine original(KernelOf(CountingCode()));
  CountAndPause(original);
  const uint32_t count = original.Counter();
  const auto regs = original->vcpu().GetRegs();
  const SavedFiles saved = original.Save();
  REQUIRE(original->Resume().ok());
  REQUIRE(original.AwaitChange(kCounterAddress, count));

  TestMachine first(saved), second(saved);
  for (TestMachine* copy : {&first, &second}) {
    CHECK(copy->Counter() == count);
    CHECK((*copy)->vcpu().GetRegs()->rip == regs->rip);
    CHECK((*copy)->Start().code() == absl::StatusCode::kFailedPrecondition);
    REQUIRE((*copy)->Resume().ok());
    REQUIRE(copy->AwaitChange(kCounterAddress, count));
  }
  REQUIRE(first->StopForced().ok());
  CHECK(first.AwaitExit().reason == ExitReason::kStopped);
  const uint32_t later = second.Counter();
  REQUIRE(second.AwaitChange(kCounterAddress, later));
}

TEST_CASE("restore: timers, registers, device accesses and the TSC survive, 200 times") {
  REQUIRE_KVM();
  RunGenerations({}, 1, 50);
  RunGenerations({.deadline_timer = true}, 1, 50);
  RunGenerations({.deadline_timer = true, .halts = true}, 1, 50);
  RunGenerations({}, 2, 50);
}

TEST_CASE("restore: a machine of 8 vCPUs") {
  REQUIRE_KVM();
  RunGenerations({}, 8, 5);
}

TEST_CASE("restore: 10,000 times with 2 vCPUs", "[.full]") {
  REQUIRE_KVM();
  RunGenerations({}, 2, 5000);
  RunGenerations({.deadline_timer = true}, 2, 5000);
}

TEST_CASE("restore: an interrupt that waits to be taken is taken after it") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(PendingInterruptCode()));
  REQUIRE(machine->Start().ok());
  REQUIRE(machine.AwaitChange(kBusyRounds, 0));
  REQUIRE(machine->Pause().ok());
  const SavedFiles saved = machine.Save();
  TestMachine copy(saved);
  CHECK(copy.Word(kPendingDone) == 0);
  REQUIRE(copy->memory().WriteValue<uint32_t>(GuestAddress(kPendingGo), 1));
  REQUIRE(copy->Resume().ok());
  REQUIRE(copy.AwaitChange(kPendingDone, 0));
  CHECK(machine.Word(kPendingDone) == 0);  // The original has not gone on.
}

TEST_CASE("restore: what KVM tells of the copy is what it told of the original") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(BusyCode()), 2);
  REQUIRE(machine->Start().ok());
  REQUIRE(AwaitProgress(machine));
  REQUIRE(machine->Pause().ok());
  // More than such a guest would ever set.
  const SavedFiles plain = machine.Save();
  auto state = ParseMachineState(plain.state);
  REQUIRE(state.ok());
  state->vcpus[0].vcpu.regs.r15 = 0x1122334455667788;
  state->vcpus[1].vcpu.debug_regs.db[2] = 0xdead0000;
  for (int i = 0; i < 16; ++i) state->vcpus[0].vcpu.xsave[160 + i] = static_cast<uint8_t>(i);
  state->vcpus[0].vcpu.xsave[512] |= 3;  // XSTATE_BV: x87 and SSE are not in their initial state.
  const SavedFiles first{SerializeMachineState(*state), UniqueFd(dup(plain.memory.get()))};

  TestMachine copy(first);
  const SavedFiles second = copy.Save();
  auto again = ParseMachineState(second.state);
  REQUIRE(again.ok());
  REQUIRE(again->vcpus.size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    VcpuState& was = state->vcpus[i].vcpu;
    VcpuState& is = again->vcpus[i].vcpu;
    CHECK(std::memcmp(&was.regs, &is.regs, sizeof(was.regs)) == 0);
    CHECK(std::memcmp(&was.sregs, &is.sregs, sizeof(was.sregs)) == 0);
    CHECK(was.xsave == is.xsave);
    CHECK(std::memcmp(&was.debug_regs, &is.debug_regs, sizeof(was.debug_regs)) == 0);
    CHECK(was.mp_state.mp_state == is.mp_state.mp_state);
    CHECK(std::memcmp(&was.events, &is.events, sizeof(was.events)) == 0);
    REQUIRE(was.msrs.size() == is.msrs.size());
    for (size_t m = 0; m < was.msrs.size(); ++m) {
      INFO("MSR " << std::hex << was.msrs[m].index);
      CHECK(was.msrs[m].index == is.msrs[m].index);
      if (was.msrs[m].index == kMsrTsc) {
        CHECK(is.msrs[m].data >= was.msrs[m].data);
        CHECK(is.msrs[m].data - was.msrs[m].data < 60ull * state->vcpus[i].tsc_khz * 1000);
      } else {
        CHECK(was.msrs[m].data == is.msrs[m].data);
      }
    }
  }
  CHECK(again->vm.clock_ns >= state->vm.clock_ns);
  CHECK(again->vm.clock_ns - state->vm.clock_ns < 60'000'000'000);
  CHECK(std::memcmp(&again->vm.ioapic, &state->vm.ioapic, sizeof(kvm_ioapic_state)) == 0);
}

// Some KVMs without hardware support show each guest the host's TSC, whatever they are told.
bool KvmOffsetsTsc() {
  TestMachine machine(KernelOf(HaltCode()));
  const auto offset = machine->vcpu().TscOffset();
  if (!offset.has_value() || !machine->vcpu().SetTscOffset(*offset + (1ull << 50)).ok()) {
    return false;
  }
  const auto tsc = machine->vcpu().GetMsr(kMsrTsc);
  return tsc.ok() && *tsc >= 1ull << 50;
}

TEST_CASE("restore: the clocks stand still while the machine is stored") {
  REQUIRE_KVM();
  const bool offsets_tsc = KvmOffsetsTsc();
  if (!offsets_tsc) WARN("this KVM keeps no TSC of a guest's own: only kvm-clock is tested");
  TestMachine machine(KernelOf(BusyCode()), 2);
  REQUIRE(machine->Start().ok());
  REQUIRE(AwaitProgress(machine));
  REQUIRE(machine->Pause().ok());
  const SavedFiles saved = machine.Save();
  auto state = ParseMachineState(saved.state);
  REQUIRE(state.ok());
  // As if it had run for an hour, and for half a second: neither may be taken for now.
  for (const uint64_t ms : {3'600'000ull, 500ull}) {
    const uint64_t khz = state->vcpus[0].tsc_khz;
    for (SavedVcpuState& vcpu : state->vcpus) {
      for (kvm_msr_entry& msr : vcpu.vcpu.msrs) {
        if (msr.index == kMsrTsc) msr.data = khz * ms + (&vcpu == &state->vcpus[1] ? 1000 : 0);
      }
    }
    state->vm.clock_ns = ms * 1'000'000;
    TestMachine copy(SavedFiles{SerializeMachineState(*state), UniqueFd(dup(saved.memory.get()))});
    const auto again = ParseMachineState(copy.Save().state);
    REQUIRE(again.ok());
    // A minute is what an overloaded machine may need between the two.
    const uint64_t slack_ms = 60'000;
    CHECK(again->vm.clock_ns >= ms * 1'000'000);
    CHECK(again->vm.clock_ns < (ms + slack_ms) * 1'000'000);
    if (!offsets_tsc) continue;
    const uint64_t tsc = *again->vcpus[0].vcpu.Msr(kMsrTsc);
    CHECK(tsc >= khz * ms);
    CHECK(tsc < khz * (ms + slack_ms));
    CHECK(*again->vcpus[1].vcpu.Msr(kMsrTsc) == tsc + 1000);
  }
}

TEST_CASE("restore: a copy is populated and tells what it used") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(CountingCode()));
  const UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  CHECK(machine->WorkingSet(pagemap.get(), 10).status().code() ==
        absl::StatusCode::kFailedPrecondition);
  CountAndPause(machine);
  const SavedFiles saved = machine.Save();
  TestMachine copy(saved);
  REQUIRE(copy->Resume().ok());
  REQUIRE(copy.AwaitChange(kCounterAddress, copy.Counter()));
  const auto runs = copy->WorkingSet(pagemap.get(), 10);
  REQUIRE(runs.ok());
  const auto covers = [&](uint32_t address, bool written) {
    for (const PageRun& run : *runs) {
      const uint64_t page = address / kGuestPageBytes;
      if (page >= run.first_page && page < run.first_page + run.page_count) {
        return run.written == written;
      }
    }
    return false;
  };
  CHECK(covers(kCounterAddress, true));
  CHECK(covers(kCodeAddress, false));
}

TEST_CASE("restore: what will be written where the file has nothing is in large pages") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(CountingCode()));
  CountAndPause(machine);
  const SavedFiles saved = machine.Save();
  TestMachine copy;
  REQUIRE(copy.TryRestore(saved.state, saved.memory.get(), {{512, 512, true}}).ok());
  // Of the 4 MiB the guest uses the first half alone.
  const uint8_t* const memory = copy->memory().regions()[0].mapping.data();
  CHECK(HasFlag(memory, "nh"));
  CHECK(HasFlag(memory + (2 << 20), "hg"));
  REQUIRE(copy->Resume().ok());
  REQUIRE(copy.AwaitChange(kCounterAddress, copy.Counter()));
}

TEST_CASE("restore: a machine is saved only while it is paused, and as often as one likes") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(CountingCode()));
  const UniqueFd state = EmptyMemfd(), memory = EmptyMemfd();
  const auto refused = [&] {
    return machine->Save(state.get(), memory.get()).status().code() ==
           absl::StatusCode::kFailedPrecondition;
  };
  CHECK(refused());
  REQUIRE(machine->Start().ok());
  CHECK(refused());
  REQUIRE(machine->Pause().ok());
  for (int i = 0; i < 3; ++i) TestMachine(machine.Save()).Destroy();
  const UniqueFd full = MemoryFile("full");
  CHECK(machine->Save(full.get(), memory.get()).status().code() ==
        absl::StatusCode::kInvalidArgument);
  CHECK(machine->Save(state.get(), full.get()).status().code() ==
        absl::StatusCode::kInvalidArgument);
  REQUIRE(machine->StopForced().ok());
  CHECK(refused());
}

TEST_CASE("restore: a guest that has ended cannot be saved") {
  REQUIRE_KVM();
  TestMachine machine(KernelOf(TripleFaultCode()));
  REQUIRE(machine->Start().ok());
  // Its end is known only once the loop has run; the vCPU knows it before.
  while (machine->Statistics().exits == 0) sched_yield();
  REQUIRE(machine->Pause().ok());
  const UniqueFd state = EmptyMemfd(), memory = EmptyMemfd();
  const auto saved = machine->Save(state.get(), memory.get());
  CHECK(saved.status().code() == absl::StatusCode::kFailedPrecondition);
  CHECK(machine.AwaitExit().reason == ExitReason::kGuestFault);
}

}  // namespace
}  // namespace hearth::vmm::testing
