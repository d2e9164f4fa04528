// SPDX-License-Identifier: Apache-2.0
// States and memories that nobody should be handed: each is refused, or yields a guest that is no
// worse than a hostile one, and never harms this process.
#include <catch2/catch.hpp>
#include <random>

#include "tests/vmm/test_machine.h"
#include "vmm/testing/busy_guest.h"

namespace hearth::vmm::testing {
namespace {

SavedFiles SavedBusyGuest(uint32_t vcpus = 2) {
  TestMachine machine(KernelOf(BusyCode()), vcpus);
  REQUIRE(machine->Start().ok());
  REQUIRE(machine.AwaitChange(kBusyTicks, 0));
  REQUIRE(machine->Pause().ok());
  return machine.Save();
}

std::string Refusal(const std::string& state, int memory) {
  TestMachine machine;
  const absl::Status status = machine.TryRestore(state, memory);
  REQUIRE_FALSE(status.ok());
  return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
}

std::string Changed(const std::string& state, void (*change)(SavedMachineState&)) {
  auto parsed = ParseMachineState(state);
  REQUIRE(parsed.ok());
  change(*parsed);
  return SerializeMachineState(*parsed);
}

TEST_CASE("restore: a memory file of another size, or one that is not sealed, is refused") {
  REQUIRE_KVM();
  const SavedFiles saved = SavedBusyGuest();
  CHECK_THAT(Refusal(saved.state, -1), Catch::Contains("no memfd"));
  const UniqueFd small = EmptyMemfd();
  REQUIRE(ftruncate(small.get(), 2 << 20) == 0);
  CHECK_THAT(Refusal(saved.state, small.get()),
             Catch::Contains("FAILED_PRECONDITION") && Catch::Contains("not sealed"));
  REQUIRE(fcntl(small.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK) == 0);
  CHECK_THAT(Refusal(saved.state, small.get()),
             Catch::Contains("FAILED_PRECONDITION") && Catch::Contains("2097152 bytes"));
  using S = SavedMachineState;
  CHECK_THAT(Refusal(Changed(saved.state, [](S& s) { s.memory_mib = 6; }), saved.memory.get()),
             Catch::Contains("the saved machine 6291456"));
}

TEST_CASE("restore: a state that does not fit this host is refused by what it lacks") {
  REQUIRE_KVM();
  const SavedFiles saved = SavedBusyGuest();
  using S = SavedMachineState;
  const auto refusal = [&](void (*change)(S&)) {
    return Refusal(Changed(saved.state, change), saved.memory.get());
  };
  CHECK_THAT(refusal([](S& s) {
               for (auto& entry : s.vcpus[1].cpuid) {
                 if (entry.function == 1) entry.ecx = ~0u;
               }
             }),
             Catch::Contains("FAILED_PRECONDITION") && Catch::Contains("leaf 0x1.0 ECX"));
  CHECK_THAT(refusal([](S& s) { s.vcpus[0].cpuid[0].ebx ^= 1; }), Catch::Contains("vendor"));
  CHECK_THAT(refusal([](S& s) { s.vcpus[0].vcpu.xsave.resize(60'000); }),
             Catch::Contains("XSAVE area has 60000"));
  CHECK_THAT(refusal([](S& s) {
               s.vcpus[0].vcpu.msrs.push_back({0x12345678, 0, 1});
             }),
             Catch::Contains("MSR 0x12345678"));
}

TEST_CASE("restore: other vCPUs or devices than the saved ones are refused") {
  REQUIRE_KVM();
  const SavedFiles saved = SavedBusyGuest();
  v1::SavedMachine message;
  REQUIRE(message.ParseFromString(saved.state));
  v1::SavedMachine changed = message;
  while (changed.vcpus_size() < 9) *changed.add_vcpus() = message.vcpus(0);
  CHECK_THAT(Refusal(changed.SerializeAsString(), saved.memory.get()),
             Catch::Contains("has 9 vCPUs"));
  changed = message;
  changed.clear_vcpus();
  CHECK_THAT(Refusal(changed.SerializeAsString(), saved.memory.get()),
             Catch::Contains("has 0 vCPUs"));
  changed = message;
  changed.mutable_devices()->mutable_virtio()->RemoveLast();
  Refusal(changed.SerializeAsString(), saved.memory.get());
  changed = message;
  changed.clear_devices();
  Refusal(changed.SerializeAsString(), saved.memory.get());
}

// Restores `count` states with random changes, and lets those that KVM takes run for a moment.
void RestoreMutated(uint32_t seed, int count) {
  const SavedFiles saved = SavedBusyGuest();
  v1::SavedMachine message;
  REQUIRE(message.ParseFromString(saved.state));
  std::mt19937 random(seed);
  const auto mutate = [&](std::string& bytes) {
    if (bytes.empty()) return;
    for (uint32_t n = 1 + random() % 4; n > 0; --n) {
      char& byte = bytes[random() % bytes.size()];
      byte = static_cast<char>(random() % 2 == 0 ? random() : byte ^ (1 << random() % 8));
    }
  };
  int restored = 0;
  for (int i = 0; i < count; ++i) {
    INFO("seed " << seed << ", state " << i);
    v1::SavedMachine changed = message;
    v1::SavedVcpu& vcpu = *changed.mutable_vcpus(static_cast<int>(random() % 2));
    std::string bytes;
    switch (random() % 12) {
      case 0:
        mutate(*vcpu.mutable_regs());
        break;
      case 1:
        mutate(*vcpu.mutable_sregs());
        break;
      case 2:
        mutate(*vcpu.mutable_xsave());
        break;
      case 3:
        mutate(*vcpu.mutable_lapic());
        break;
      case 4:
        mutate(*vcpu.mutable_events());
        break;
      case 5:
        mutate(*vcpu.mutable_xcrs());
        break;
      case 6:
        mutate(*vcpu.mutable_debug_regs());
        break;
      case 7:
        mutate(*changed.mutable_vm()->mutable_ioapic());
        break;
      case 8: {
        v1::Msr& msr = *vcpu.mutable_msrs(
            static_cast<int>(random() % static_cast<uint32_t>(vcpu.msrs_size())));
        msr.set_value(random() | uint64_t{random()} << 32);
        break;
      }
      case 9: {
        v1::CpuidEntry& entry = *vcpu.mutable_cpuid(
            static_cast<int>(random() % static_cast<uint32_t>(vcpu.cpuid_size())));
        entry.set_eax(static_cast<uint32_t>(random()));
        break;
      }
      case 10:
        vcpu.set_mp_state(random() % 6);
        break;
      default: {
        bytes = message.SerializeAsString();
        mutate(bytes);
        if (random() % 4 == 0) bytes.resize(random() % bytes.size());
      }
    }
    if (bytes.empty()) bytes = changed.SerializeAsString();
    TestMachine machine;
    if (!machine.TryRestore(bytes, saved.memory.get()).ok()) continue;
    ++restored;
    REQUIRE(machine->Resume().ok());
    for (int turn = 0; turn < 3; ++turn) sched_yield();
    machine->Pause().IgnoreError();
    machine.RunDueCallbacks();
  }
  // Most changes are what a guest could have done itself; some must have been seen.
  CHECK(restored > 0);
  CHECK(restored < count);
}

TEST_CASE("restore: 1,000 mutated states harm nobody") {
  REQUIRE_KVM();
  RestoreMutated(1, 1000);
}

TEST_CASE("restore: 10,000 mutated states harm nobody", "[.full]") {
  REQUIRE_KVM();
  RestoreMutated(2, 10'000);
}

}  // namespace
}  // namespace hearth::vmm::testing
