// SPDX-License-Identifier: Apache-2.0
#include "vmm/arch/x86_64/kernel_loader.h"

#include <elf.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "vmm/arch/x86_64/layout.h"
#include "vmm/testing/tiny_guest.h"

namespace hearth::vmm::x86_64 {
namespace {

using testing::MakeKernel;
using testing::MemoryFile;

constexpr unsigned long long kMemoryBytes = 8 << 20;

GuestMemory MakeMemory() {
  auto memory = GuestMemory::CreateAnonymous(RamRanges(kMemoryBytes));
  REQUIRE(memory.ok());
  return *std::move(memory);
}

absl::StatusOr<LoadedKernel> Load(const std::string& file) {
  const GuestMemory memory = MakeMemory();
  const UniqueFd fd = MemoryFile(file);
  return LoadKernel(fd.get(), memory);
}

// The refusal's text; a test fails where the file is accepted.
std::string Refusal(const std::string& file) {
  const auto loaded = Load(file);
  REQUIRE(!loaded.ok());
  CHECK(loaded.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(loaded.status().message());
}

std::string Good() { return MakeKernel({{0x100000, "code"}, {0x300000, "data"}}); }

template <typename T>
void Patch(std::string& file, size_t offset, T value) {
  std::memcpy(file.data() + offset, &value, sizeof(value));
}
// Where a field of program header `index` lies; 0 is the note, then the segments.
#define PHDR(index, field) \
  (sizeof(Elf64_Ehdr) + (index) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))

TEST_CASE("kernel loader: segments go to their addresses and the note gives the entry") {
  const GuestMemory memory = MakeMemory();
  const UniqueFd fd = MemoryFile(Good());
  const auto kernel = LoadKernel(fd.get(), memory);
  REQUIRE(kernel.ok());
  CHECK(kernel->entry == 0x100000);
  CHECK(kernel->end == 0x300004);
  char bytes[4];
  REQUIRE(memory.Read(GuestAddress(0x300000), {reinterpret_cast<uint8_t*>(bytes), 4}));
  CHECK(std::string(bytes, 4) == "data");
}

TEST_CASE("kernel loader: large segments are the file's bytes, privately, at any alignment") {
  std::string big(300'000, '\0');
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 7 + i / 256);
  const size_t headers = MakeKernel({{0x100000, ""}}).size();
  // The segment's bytes begin at `headers` in the file: aligned with it, and not.
  for (uint32_t address : {0x200000u + static_cast<uint32_t>(headers), 0x200000u, 0x200fffu}) {
    INFO("address " << address);
    const GuestMemory memory = MakeMemory();
    const std::string contents = MakeKernel({{address, big}}, address);
    const UniqueFd fd = MemoryFile(contents);
    REQUIRE(LoadKernel(fd.get(), memory).ok());
    std::string loaded(big.size(), 'x');
    REQUIRE(memory.Read(GuestAddress(address),
                        {reinterpret_cast<uint8_t*>(loaded.data()), loaded.size()}));
    CHECK(loaded == big);
    CHECK(*memory.ReadValue<uint8_t>(GuestAddress(address - 1)) == 0);
    CHECK(*memory.ReadValue<uint8_t>(GuestAddress(address + big.size())) == 0);
    REQUIRE(memory.WriteValue<uint64_t>(GuestAddress(address + 0x10000), 0));
    std::string file(contents.size(), 'x');
    REQUIRE(pread(fd.get(), file.data(), file.size(), 0) == static_cast<ssize_t>(file.size()));
    CHECK(file == contents);
  }
}

TEST_CASE("kernel loader: what is no vmlinux is refused by what is wrong with it") {
  CHECK_THAT(Refusal(""), Catch::Contains("shorter than an ELF header"));
  CHECK_THAT(Refusal(std::string(4096, 'x')), Catch::Contains("not an ELF file"));
  std::string file = Good();
  file[EI_CLASS] = ELFCLASS32;
  CHECK_THAT(Refusal(file), Catch::Contains("not a 64-bit x86"));
  file = Good();
  Patch<uint16_t>(file, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
  CHECK_THAT(Refusal(file), Catch::Contains("not a 64-bit x86"));
  for (uint16_t count : {uint16_t{0}, uint16_t{65}, uint16_t{0xffff}}) {
    file = Good();
    Patch(file, offsetof(Elf64_Ehdr, e_phnum), count);
    CHECK_THAT(Refusal(file), Catch::Contains("program headers"));
  }
}

TEST_CASE("kernel loader: every shorter version of a good file is refused") {
  const std::string good = Good();
  for (size_t size = 0; size < good.size(); ++size) {
    INFO("cut to " << size);
    REQUIRE(!Load(good.substr(0, size)).ok());
  }
}

TEST_CASE("kernel loader: offsets and sizes that wrap or leave the file are refused") {
  for (uint64_t value : {~0ull, ~0ull - 100, 1ull << 63, 0x10000ull}) {
    std::string file = Good();
    Patch(file, offsetof(Elf64_Ehdr, e_phoff), value);
    CHECK_THAT(Refusal(file), Catch::Contains("truncated"));
    file = Good();
    Patch(file, PHDR(1, p_offset), value);
    CHECK_THAT(Refusal(file), Catch::Contains("truncated"));
    file = Good();
    Patch(file, PHDR(0, p_offset), value);
    CHECK_THAT(Refusal(file), Catch::Contains("truncated"));
    file = Good();
    Patch(file, PHDR(1, p_filesz), value);
    CHECK_THAT(Refusal(file), Catch::Contains("larger in the file"));
    file = Good();
    Patch(file, PHDR(0, p_filesz), value);
    CHECK(!Load(file).ok());
  }
}

TEST_CASE("kernel loader: segments outside memory are refused") {
  for (uint64_t address : {0ull, 0xfffffull, kMemoryBytes + 0ull, kMemoryBytes - 3ull,
                           0xd0000000ull, ~0ull - 1, 1ull << 63}) {
    std::string file = Good();
    Patch(file, PHDR(1, p_paddr), address);
    CHECK_THAT(Refusal(file), Catch::Contains("outside the guest's memory"));
  }
  for (uint64_t size : {kMemoryBytes + 0ull, ~0ull, ~0ull - 0x100000}) {
    std::string file = Good();
    Patch(file, PHDR(2, p_memsz), size);
    CHECK_THAT(Refusal(file), Catch::Contains("outside the guest's memory"));
  }
}

TEST_CASE("kernel loader: overlapping segments are refused, touching ones are not") {
  CHECK_THAT(Refusal(MakeKernel({{0x100000, "code"}, {0x100003, "data"}})),
             Catch::Contains("overlap"));
  CHECK_THAT(Refusal(MakeKernel({{0x100001, "code"}, {0x100000, "data"}})),
             Catch::Contains("overlap"));
  CHECK(Load(MakeKernel({{0x100000, "code"}, {0x100004, "data"}})).ok());
}

TEST_CASE("kernel loader: a kernel without a usable PVH note is refused") {
  std::string file = Good();
  Patch<uint32_t>(file, PHDR(0, p_type), PT_NULL);
  CHECK_THAT(Refusal(file), Catch::Contains("no PVH entry note"));
  const size_t note_at = sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr);
  for (size_t field : {size_t{0}, size_t{4}, size_t{8}}) {
    for (uint32_t value : {0u, 1u, 0x7fffffffu, 0xffffffffu}) {
      file = Good();
      Patch(file, note_at + field, value);
      CHECK_THAT(Refusal(file), Catch::Contains("no PVH entry note"));
    }
  }
  file = Good();
  Patch(file, PHDR(0, p_filesz), kMaxNoteBytes + 1);
  CHECK_THAT(Refusal(file), Catch::Contains("notes are too long"));
  for (uint32_t entry : {0u, 0xfffffu, 0x100004u, 0xffffffffu}) {
    CHECK_THAT(Refusal(MakeKernel({{0x100000, "code"}}, entry)),
               Catch::Contains("outside its segments"));
  }
}

TEST_CASE("kernel loader: what is no regular file is refused") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const GuestMemory memory = MakeMemory();
  CHECK_THAT(std::string(LoadKernel(read_end.get(), memory).status().message()),
             Catch::Contains("no regular file"));
  CHECK(!LoadKernel(-1, memory).ok());
}

TEST_CASE("initrd: it lies page-aligned at the top, above the kernel, or is refused") {
  const GuestMemory memory = MakeMemory();
  const UniqueFd file = MemoryFile(std::string(5000, 'i'));
  const auto initrd = LoadInitrd(file.get(), memory, 0x300004);
  REQUIRE(initrd.ok());
  CHECK(initrd->address == kMemoryBytes - 8192);
  CHECK(initrd->size_bytes == 5000);
  CHECK(!LoadInitrd(file.get(), memory, kMemoryBytes - 8191).ok());
  CHECK(!LoadInitrd(MemoryFile("").get(), memory, 0).ok());
  CHECK(!LoadInitrd(MemoryFile(std::string(kMemoryBytes + 1, 'i')).get(), memory, 0).ok());
}

}  // namespace
}  // namespace hearth::vmm::x86_64
