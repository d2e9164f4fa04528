// SPDX-License-Identifier: Apache-2.0
#include <asm/kvm_para.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "vmm/arch/x86_64/boot_data.h"
#include "vmm/arch/x86_64/cpu.h"
#include "vmm/arch/x86_64/layout.h"

namespace hearth::vmm::x86_64 {
namespace {

GuestMemory MakeMemory(uint64_t bytes) {
  auto memory = GuestMemory::CreateAnonymous(RamRanges(bytes));
  REQUIRE(memory.ok());
  return *std::move(memory);
}

template <typename T>
T At(const GuestMemory& memory, uint64_t address) {
  const auto value = memory.ReadValue<T>(GuestAddress(address));
  REQUIRE(value.has_value());
  return *value;
}

uint8_t Sum(const GuestMemory& memory, uint64_t address, size_t bytes) {
  uint8_t sum = 0;
  for (size_t i = 0; i < bytes; ++i) {
    sum = static_cast<uint8_t>(sum + At<uint8_t>(memory, address + i));
  }
  return sum;
}

TEST_CASE("start info: magic, command line, memory map and initrd are where the guest looks") {
  const GuestMemory memory = MakeMemory(64 << 20);
  REQUIRE(WriteStartInfo(memory, "console=ttyS0", LoadedInitrd{0x3000000, 12345}).ok());
  CHECK(At<uint32_t>(memory, kStartInfoAddress) == 0x336ec578);
  CHECK(At<uint32_t>(memory, kStartInfoAddress + 4) == 1);
  CHECK(At<uint32_t>(memory, kStartInfoAddress + 12) == 1);
  const uint64_t modules = At<uint64_t>(memory, kStartInfoAddress + 16);
  CHECK(At<uint64_t>(memory, modules) == 0x3000000);
  CHECK(At<uint64_t>(memory, modules + 8) == 12345);
  const uint64_t text = At<uint64_t>(memory, kStartInfoAddress + 24);
  char bytes[14];
  REQUIRE(memory.Read(GuestAddress(text), {reinterpret_cast<uint8_t*>(bytes), sizeof(bytes)}));
  CHECK(std::string(bytes) == "console=ttyS0");
  CHECK(At<uint32_t>(memory, kStartInfoAddress + 48) == 3);
  const uint64_t map = At<uint64_t>(memory, kStartInfoAddress + 40);
  CHECK(At<uint64_t>(memory, map + 8) == kMpTableAddress);
  CHECK(At<uint32_t>(memory, map + 24 + 16) == 2);  // Reserved: the MP table and below 1 MiB.
  CHECK(At<uint64_t>(memory, map + 48) == kHighMemoryStart);
  CHECK(At<uint64_t>(memory, map + 56) == (64 << 20) - kHighMemoryStart);
}

TEST_CASE("start info: memory beyond the MMIO hole continues at 4 GiB") {
  const GuestMemory memory = MakeMemory(uint64_t{5} << 30);
  REQUIRE(WriteStartInfo(memory, "", std::nullopt).ok());
  CHECK(At<uint32_t>(memory, kStartInfoAddress + 48) == 4);
  CHECK(At<uint64_t>(memory, kMemoryMapAddress + 72) == kMmioHoleEnd);
  CHECK(At<uint64_t>(memory, kMemoryMapAddress + 80) == uint64_t{2} << 30);
}

TEST_CASE("start info: a command line that is too long or holds a NUL is refused") {
  const GuestMemory memory = MakeMemory(4 << 20);
  CHECK(WriteStartInfo(memory, std::string(2047, 'a'), std::nullopt).ok());
  CHECK(!WriteStartInfo(memory, std::string(2048, 'a'), std::nullopt).ok());
  CHECK(!WriteStartInfo(memory, std::string("a\0b", 3), std::nullopt).ok());
}

TEST_CASE("mp table: the checksums are right and every pin has its interrupt") {
  const GuestMemory memory = MakeMemory(4 << 20);
  REQUIRE(WriteMpTable(memory, 1).ok());
  CHECK(At<uint32_t>(memory, kMpTableAddress) == 0x5f504d5f);  // _MP_
  CHECK(Sum(memory, kMpTableAddress, 16) == 0);
  const uint32_t table = At<uint32_t>(memory, kMpTableAddress + 4);
  CHECK(At<uint32_t>(memory, table) == 0x504d4350);  // PCMP
  const uint16_t length = At<uint16_t>(memory, table + 4);
  CHECK(Sum(memory, table, length) == 0);
  CHECK(length == 44 + 20 + 8 + 8 + 24 * 8 + 2 * 8);
  CHECK(At<uint16_t>(memory, table + 34) == 1 + 1 + 1 + 24 + 2);
}

TEST_CASE("mp table: it has an entry for each of 8 processors, the first of which boots") {
  const GuestMemory memory = MakeMemory(4 << 20);
  REQUIRE(WriteMpTable(memory, 8).ok());
  const uint32_t table = At<uint32_t>(memory, kMpTableAddress + 4);
  CHECK(Sum(memory, table, At<uint16_t>(memory, table + 4)) == 0);
  for (uint32_t cpu = 0; cpu < 8; ++cpu) {
    const uint32_t entry = table + 44 + cpu * 20;
    CHECK(At<uint8_t>(memory, entry) == 0);
    CHECK(At<uint8_t>(memory, entry + 1) == cpu);
    CHECK(At<uint8_t>(memory, entry + 3) == (cpu == 0 ? 3 : 1));
  }
  CHECK(At<uint8_t>(memory, table + 44 + 8 * 20 + 8) == 2);      // The IOAPIC,
  CHECK(At<uint8_t>(memory, table + 44 + 8 * 20 + 8 + 1) == 9);  // whose id is its own.
}

const kvm_cpuid_entry2& Entry(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function) {
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function == function) return entry;
  }
  FAIL("no CPUID leaf " << function);
  return entries.front();
}

TEST_CASE("cpuid: one processor under a hypervisor, without what we do not offer") {
  std::vector<kvm_cpuid_entry2> entries;
  for (uint32_t function : {0x1u, 0xau, 0xbu, 0x40000000u, 0x40000001u, 0x40000082u, 0x80000001u,
                            0x80000008u, 0x8000000au}) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0xffffffff;
    entries.push_back(entry);
  }
  AdaptCpuid(entries, false, 1);
  const auto features = Entry(entries, 1);
  CHECK((features.ecx & 1u << 31) != 0);  // Hypervisor.
  CHECK((features.ecx & 1u << 5) == 0);   // VMX.
  CHECK((features.edx & 1u << 28) == 0);  // HTT.
  CHECK(features.ebx >> 16 == 1);
  CHECK(Entry(entries, 0xa).eax == 0);
  CHECK(Entry(entries, 0xb).edx == 0);
  CHECK((Entry(entries, 0x80000001).ecx & 1u << 2) == 0);  // SVM.
  CHECK(Entry(entries, 0x8000000a).edx == 0);
  CHECK((Entry(entries, 0x40000001).eax & 1u << KVM_FEATURE_ASYNC_PF) == 0);
  CHECK((Entry(entries, 0x40000001).eax & 1u << KVM_FEATURE_CLOCKSOURCE2) != 0);
  for (const auto& entry : entries) CHECK(entry.function != 0x40000082);
}

TEST_CASE("cpuid: the TSC deadline timer is shown only where the LAPIC has it") {
  for (const bool deadline : {false, true}) {
    std::vector<kvm_cpuid_entry2> entries(1);
    entries[0].function = 1;
    AdaptCpuid(entries, deadline, 1);
    CHECK(((entries[0].ecx >> 24) & 1) == (deadline ? 1 : 0));
  }
}

}  // namespace
}  // namespace hearth::vmm::x86_64
