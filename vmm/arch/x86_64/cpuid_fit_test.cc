// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "vmm/arch/x86_64/cpu.h"

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
    if (!entries.empty() && entries.back().function == function) entry.index = 1;
    entries.push_back(entry);
  }
  return entries;
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

}  // namespace
}  // namespace hearth::vmm::x86_64
