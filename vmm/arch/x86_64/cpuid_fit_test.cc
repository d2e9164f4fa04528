// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/msrs.h"

namespace hearth::vmm::x86_64 {
namespace {

std::vector<kvm_cpuid_entry2> Host() {
  std::vector<kvm_cpuid_entry2> entries;
  for (uint32_t function :
       {0x0u, 0x1u, 0x4u, 0x7u, 0xbu, 0xbu, 0x80000001u, 0x80000008u, 0x8000001eu}) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0xf0f0f0f0;
    if (function == 4) entry.eax = 0x63;  // A unified cache of level 3.
    if (function == 4 || function == 7 || function == 0xb) {
      entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
    if (!entries.empty() && entries.back().function == function) entry.index = 1;
    entries.push_back(entry);
  }
  return entries;
}

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t eax = 0) {
  kvm_cpuid_entry2 entry{};
  entry.function = function;
  entry.eax = eax;
  return entry;
}

kvm_cpuid_entry2& At(std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                     uint32_t index = 0) {
  for (auto& entry : entries) {
    if (entry.function == function && entry.index == index) return entry;
  }
  FAIL("no leaf " << function);
  return entries.front();
}

TEST_CASE("cpuid: eight vCPUs are eight cores of one package, each with its APIC id") {
  auto entries = Host();
  AdaptCpuid(entries, true, 8);
  CHECK((At(entries, 0x1).ebx >> 16 & 0xff) == 8);
  CHECK((At(entries, 0x1).edx >> 28 & 1) == 1);
  CHECK(At(entries, 0x4).eax >> 26 == 7);            // Core ids,
  CHECK((At(entries, 0x4).eax >> 14 & 0xfff) == 7);  // and who shares the cache; both less one.
  CHECK(At(entries, 0xb, 0).eax == 0);
  CHECK(At(entries, 0xb, 0).ebx == 1);
  CHECK(At(entries, 0xb, 1).eax == 3);
  CHECK(At(entries, 0xb, 1).ebx == 8);
  CHECK(At(entries, 0x80000008).ecx == (7 | 3 << 12));
  auto fifth = entries;
  SetCpuidApicId(fifth, 5);
  CHECK(At(fifth, 0x1).ebx >> 24 == 5);
  CHECK((At(fifth, 0x1).ebx & 0xffffff) == (At(entries, 0x1).ebx & 0xffffff));
  CHECK(At(fifth, 0xb, 0).edx == 5);
  CHECK(At(fifth, 0xb, 1).edx == 5);
  CHECK(At(fifth, 0x8000001e).eax == 5);
  CHECK(At(entries, 0x1).ebx >> 24 == 0);
}

TEST_CASE("cpuid: three vCPUs take two bits of the APIC id") {
  auto entries = Host();
  AdaptCpuid(entries, true, 3);
  CHECK((At(entries, 0x1).ebx >> 16 & 0xff) == 4);
  CHECK(At(entries, 0xb, 1).eax == 2);
  CHECK(At(entries, 0xb, 1).ebx == 3);
}

TEST_CASE("cpuid: AMX is hidden wherever it shows") {
  struct {
    uint32_t function, index;
  } constexpr kLeaves[] = {{0x7, 0},  {0x7, 1},  {0xd, 0},  {0xd, 1}, {0xd, 2},
                           {0xd, 17}, {0xd, 18}, {0x1d, 1}, {0x1e, 0}};
  std::vector<kvm_cpuid_entry2> entries;
  for (const auto& [function, index] : kLeaves) {
    kvm_cpuid_entry2 entry = Leaf(function, ~0u);
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.ebx = entry.ecx = entry.edx = ~0u;
    entries.push_back(entry);
  }
  AdaptCpuid(entries, true, 1);
  CHECK(At(entries, 0x7, 0).edx == ~(1u << 22 | 1u << 24 | 1u << 25));
  CHECK(At(entries, 0x7, 1).eax == ~(1u << 21));
  CHECK(At(entries, 0x7, 1).edx == ~(1u << 8));
  CHECK(At(entries, 0xd, 0).eax == ~(1u << 17 | 1u << 18));
  CHECK(At(entries, 0xd, 1).eax == ~(1u << 4));
  CHECK(At(entries, 0xd, 2).eax == ~0u);  // AVX's state stays.
  CHECK(At(entries, 0xd, 17).eax == 0);
  CHECK(At(entries, 0xd, 18).ebx == 0);
  CHECK(At(entries, 0x1d, 1).eax == 0);
  CHECK(At(entries, 0x1e).ebx == 0);
}

TEST_CASE("cpuid: a saved machine fits a host that has all it was shown, whatever its topology") {
  auto saved = Host();
  auto offered = Host();
  AdaptCpuid(saved, true, 4);
  AdaptCpuid(offered, true, 1);
  At(saved, 0x1).ecx |= 1u << 27;  // OSXSAVE, as KVM shows it to a guest that uses it.
  SetCpuidApicId(saved, 3);
  CHECK(CheckCpuidFits(saved, offered).ok());
  At(offered, 0x7).ebx |= 1;  // The host may have more.
  CHECK(CheckCpuidFits(saved, offered).ok());
}

TEST_CASE("cpuid: a host that lacks a feature is refused with the leaf's name") {
  auto saved = Host();
  auto offered = Host();
  At(saved, 0x7).ebx |= 1u << 16;
  auto status = CheckCpuidFits(saved, offered);
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  CHECK_THAT(std::string(status.message()), Catch::Contains("leaf 0x7.0 EBX, bits 0x00010000"));
  At(saved, 0x0).ebx = 1;
  status = CheckCpuidFits(saved, offered);
  CHECK_THAT(std::string(status.message()), Catch::Contains("vendor"));
  CHECK_FALSE(CheckCpuidFits({}, offered).ok());
}

// What vCPU 1 of two is shown, changed.
absl::Status CheckAdapted(void (*change)(std::vector<kvm_cpuid_entry2>&)) {
  auto saved = Host();
  AdaptCpuid(saved, true, 2);
  SetCpuidApicId(saved, 1);
  change(saved);
  return CheckCpuidAdapted(saved, 1, 2);
}

TEST_CASE("cpuid: a saved machine is shown what this VMM shows, and nothing it takes away") {
  using Entries = std::vector<kvm_cpuid_entry2>;
  CHECK(CheckAdapted([](Entries&) {}).ok());
  CHECK(CheckAdapted([](Entries& e) { At(e, 0x1).ecx |= 1u << 27; }).ok());  // OSXSAVE.
  const auto refused = [](const char* leaf, void (*change)(Entries&)) {
    const absl::Status status = CheckAdapted(change);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(std::string(status.message()), Catch::Contains(leaf));
  };
  refused("leaf 0x1.0", [](Entries& e) { At(e, 0x1).ecx |= 1u << 5; });   // VMX.
  refused("leaf 0x1.0", [](Entries& e) { At(e, 0x1).ebx ^= 1u << 24; });  // Another's APIC id.
  refused("leaf 0xb.1", [](Entries& e) { At(e, 0xb, 1).ebx = 200; });
  refused("leaf 0xa.0", [](Entries& e) { e.push_back(Leaf(0xa, 2)); });
  refused("leaf 0x40000003.0", [](Entries& e) {
    e.insert(e.begin(), Leaf(0x40000003, ~0u));  // Hyper-V's.
  });
  refused("leaf 0x40000003.0", [](Entries& e) { e.push_back(Leaf(0x40000003)); });
}

TEST_CASE("cpuid: a leaf that KVM would find another way than the check is refused") {
  using Entries = std::vector<kvm_cpuid_entry2>;
  const auto contradictory = [](void (*change)(Entries&)) {
    const absl::Status status = CheckAdapted(change);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(std::string(status.message()), Catch::Contains("contradict"));
  };
  // KVM takes the first of a function whatever its index, unless the entry says that it matters.
  contradictory([](Entries& e) { At(e, 0x1).index = 5; });
  contradictory([](Entries& e) { e.push_back(At(e, 0x1)); });
  contradictory([](Entries& e) {
    e.push_back(At(e, 0x1));
    e.back().index = 1;
    e.back().flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  });
  contradictory([](Entries& e) { At(e, 0xb, 1).flags = 0; });
  contradictory([](Entries& e) { e.push_back(At(e, 0x7)); });
}

TEST_CASE("cpuid: a leaf without indices is one of features at every index") {
  auto saved = Host();
  const auto offered = Host();
  At(saved, 0x7).flags = 0;  // KVM answers with it for 7.1 and 7.2 too, which the host lacks.
  CHECK_THAT(std::string(CheckCpuidFits(saved, offered).message()), Catch::Contains("leaf 0x7.1"));
}

TEST_CASE("msrs: a saved machine has none that saving leaves out") {
  const kvm_msr_entry good[] = {{0x10, 0, 1}, {0xc0000080, 0, 0x500}, {0x4b564d01, 0, 1}};
  CHECK(CheckMsrs(good).ok());
  for (const uint32_t index : {0xc1u, 0x480u, 0x40000000u, 0xc0010117u}) {
    const kvm_msr_entry bad[] = {good[0], {index, 0, 0}};
    const absl::Status status = CheckMsrs(bad);
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(std::string(status.message()), Catch::Contains("MSR 0x"));
  }
}

}  // namespace
}  // namespace hearth::vmm::x86_64
