// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/saved_state.h"

#include <catch2/catch.hpp>
#include <functional>

#include "vmm/snapshot/limits.h"
#include "wire/limits.h"

namespace hearth::vmm {
namespace {

SavedMachineState Good(size_t vcpus = 2) {
  SavedMachineState state;
  state.memory_mib = 4;
  state.vcpus.resize(vcpus);
  for (size_t i = 0; i < vcpus; ++i) {
    SavedVcpuState& vcpu = state.vcpus[i];
    vcpu.tsc_khz = 2'000'000;
    vcpu.vcpu.regs.rip = 0x1000 + i;
    vcpu.vcpu.lapic.regs[0x20] = 7;
    vcpu.vcpu.xsave.assign(sizeof(kvm_xsave), static_cast<uint8_t>(i));
    vcpu.vcpu.msrs = {{kMsrTsc, 0, 42 + i}, {0xc0000080, 0, 0x500}};
    kvm_cpuid_entry2 entry{};
    entry.function = 7;
    entry.index = 1;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.ebx = 0x1234;
    vcpu.cpuid = {entry};
  }
  state.vm.clock_ns = 99;
  state.vm.ioapic.redirtbl[4].bits = 0x10000;
  state.devices.mutable_serial()->set_scratch(5);
  return state;
}

// The refusal of a good state after a change of its message.
absl::Status Refusal(const std::function<void(v1::SavedMachine&)>& change) {
  v1::SavedMachine saved;
  REQUIRE(saved.ParseFromString(SerializeMachineState(Good())));
  change(saved);
  const auto state = ParseMachineState(saved.SerializeAsString());
  REQUIRE_FALSE(state.ok());
  return state.status();
}
std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST_CASE("saved state: what is written is read again") {
  const auto state = ParseMachineState(SerializeMachineState(Good(8)));
  REQUIRE(state.ok());
  CHECK(state->memory_mib == 4);
  REQUIRE(state->vcpus.size() == 8);
  const SavedVcpuState& vcpu = state->vcpus[1];
  CHECK(vcpu.tsc_khz == 2'000'000);
  CHECK(vcpu.vcpu.regs.rip == 0x1001);
  CHECK(vcpu.vcpu.lapic.regs[0x20] == 7);
  CHECK(vcpu.vcpu.xsave == std::vector<uint8_t>(sizeof(kvm_xsave), 1));
  CHECK(vcpu.vcpu.Msr(kMsrTsc) == uint64_t{43});
  CHECK(vcpu.vcpu.Msr(0xc0000080) == uint64_t{0x500});
  CHECK_FALSE(vcpu.vcpu.Msr(kMsrTscDeadline).has_value());
  REQUIRE(vcpu.cpuid.size() == 1);
  CHECK(vcpu.cpuid[0].index == 1);
  CHECK(vcpu.cpuid[0].ebx == 0x1234);
  CHECK(state->vm.clock_ns == 99);
  CHECK(state->vm.ioapic.redirtbl[4].bits == 0x10000);
  CHECK(state->devices.serial().scratch() == 5);
}

TEST_CASE("saved state: it tells the large holes of the memory file") {
  SavedMachineState good = Good();
  good.holes = {{0, 256}, {512, 512}};  // 4 MiB are 1024 pages.
  const auto state = ParseMachineState(SerializeMachineState(good));
  REQUIRE(state.ok());
  CHECK(state->holes == good.holes);

  const auto refused = [](std::vector<PageRange> holes) {
    const auto status = Refusal([&](v1::SavedMachine& saved) {
      for (const PageRange& hole : holes) {
        v1::SavedHole& added = *saved.add_holes();
        added.set_first_page(static_cast<uint32_t>(hole.first_page));
        added.set_page_count(static_cast<uint32_t>(hole.page_count));
      }
    });
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(Message(status), Catch::Contains("holes"));
  };
  refused({{5, 0}});
  refused({{0, 10}, {9, 10}});
  refused({{20, 10}, {0, 10}});
  refused({{1023, 2}});
  refused({{UINT32_MAX, UINT32_MAX}});
  refused(std::vector<PageRange>(kMaxHoles + 1, {0, 1}));
}

TEST_CASE("saved state: every truncation of it is refused") {
  const std::string bytes = SerializeMachineState(Good());
  for (size_t size = 0; size < bytes.size(); size += 37) {
    const auto state = ParseMachineState(absl::string_view(bytes).substr(0, size));
    CHECK_FALSE(state.ok());
  }
}

TEST_CASE("saved state: another format version is refused by its number") {
  for (const uint32_t version : {0u, kSavedMachineVersion + 1, ~0u}) {
    const auto status = Refusal([&](auto& saved) { saved.set_format_version(version); });
    CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
    CHECK_THAT(Message(status), Catch::Contains(absl::StrCat("format version ", version)));
  }
}

TEST_CASE("saved state: counts beyond the limits are refused") {
  using M = v1::SavedMachine;
  CHECK_THAT(Message(Refusal([](M& m) { m.clear_vcpus(); })), Catch::Contains("has 0 vCPUs"));
  CHECK_THAT(Message(Refusal([](M& m) {
               while (m.vcpus_size() < 9) *m.add_vcpus() = m.vcpus(0);
             })),
             Catch::Contains("has 9 vCPUs"));
  for (const uint32_t mib : {0u, 3u, 65538u}) {
    CHECK_THAT(Message(Refusal([&](M& m) { m.set_memory_mib(mib); })),
               Catch::Contains(absl::StrCat(mib, " MiB")));
  }
  CHECK_THAT(Message(Refusal([](M& m) {
               while (m.vcpus(0).msrs_size() <= static_cast<int>(kMaxSavedMsrs)) {
                 m.mutable_vcpus(0)->add_msrs();
               }
             })),
             Catch::Contains("1025 MSRs"));
  CHECK_THAT(Message(Refusal([](M& m) {
               while (m.vcpus(0).cpuid_size() <= static_cast<int>(kMaxSavedCpuidEntries)) {
                 m.mutable_vcpus(0)->add_cpuid();
               }
             })),
             Catch::Contains("257 CPUID"));
  CHECK_THAT(Message(Refusal([](M& m) { m.mutable_vcpus(0)->set_mp_state(5); })),
             Catch::Contains("mp_state"));
  CHECK_THAT(Message(Refusal([](M& m) { m.mutable_vcpus(1)->set_tsc_khz(0); })),
             Catch::Contains("0 kHz"));
  CHECK_THAT(Message(Refusal([](M& m) { m.mutable_vcpus(1)->clear_msrs(); })),
             Catch::Contains("no TSC"));
  CHECK_FALSE(ParseMachineState(std::string(wire::kMaxSavedStateBytes + 1, '\0')).ok());
}

TEST_CASE("saved state: a struct of any other length than the kernel's is refused by its name") {
  using V = v1::SavedVcpu;
  const std::pair<const char*, std::string* (V::*)()> kFields[] = {
      {"regs", &V::mutable_regs},   {"sregs", &V::mutable_sregs},
      {"xcrs", &V::mutable_xcrs},   {"debug_regs", &V::mutable_debug_regs},
      {"lapic", &V::mutable_lapic}, {"events", &V::mutable_events},
      {"XSAVE", &V::mutable_xsave}};
  for (const auto& [name, field] : kFields) {
    for (const bool longer : {false, true}) {
      const auto status = Refusal([&, field = field](v1::SavedMachine& m) {
        std::string& bytes = *(m.mutable_vcpus(1)->*field)();
        if (longer) {
          bytes.append(kMaxSavedXsaveBytes, 'x');
        } else {
          bytes.pop_back();
        }
      });
      CHECK(status.code() == absl::StatusCode::kInvalidArgument);
      CHECK_THAT(Message(status), Catch::Contains(name));
    }
  }
  CHECK_THAT(Message(Refusal([](v1::SavedMachine& m) { m.mutable_vm()->clear_ioapic(); })),
             Catch::Contains("ioapic"));
  CHECK_THAT(Message(Refusal([](v1::SavedMachine& m) { m.clear_vm(); })), Catch::Contains("pic"));
}

}  // namespace
}  // namespace hearth::vmm
