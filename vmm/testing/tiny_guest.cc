// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/tiny_guest.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

// The guests, between two labels each. The assembler knows the encodings; only relative jumps.
asm(R"(
    .pushsection .rodata
    .code32
tiny_do_nothing:
    mov $0x3f8, %edx
    mov $'!', %al
    out %al, %dx
    mov $0xfe, %al
    out %al, $0x64
1:  hlt
    jmp 1b
tiny_do_nothing_end:

tiny_hello:                     # A zero-terminated text follows the code.
    mov $(0x100000 + tiny_hello_end - tiny_hello), %esi
    mov $0x3f8, %edx
2:  lodsb
    test %al, %al
    jz 3f
    out %al, %dx
    jmp 2b
3:  mov $0xfe, %al
    out %al, $0x64
4:  hlt
    jmp 4b
tiny_hello_end:

tiny_counting:
1:  incl 0x200000
    out %al, $0x80
    jmp 1b
tiny_counting_end:

tiny_spinning:
1:  incl 0x200000
    jmp 1b
tiny_spinning_end:

tiny_halt:
1:  cli
    hlt
    jmp 1b
tiny_halt_end:

tiny_triple_fault:
    ud2
tiny_triple_fault_end:

tiny_pause_noticing:            # kvm-clock's page; its flags' bit 1 says that the guest was paused.
    mov $0x4b564d01, %ecx
    mov $0x201001, %eax
    xor %edx, %edx
    wrmsr
1:  incl 0x200000
    testb $2, 0x20101d
    jz 1b
    mov $0xfe, %al
    out %al, $0x64
    hlt
tiny_pause_noticing_end:
    .code64
    .popsection
)");

extern "C" {
extern const char tiny_do_nothing[], tiny_do_nothing_end[];
extern const char tiny_hello[], tiny_hello_end[];
extern const char tiny_counting[], tiny_counting_end[];
extern const char tiny_spinning[], tiny_spinning_end[];
extern const char tiny_halt[], tiny_halt_end[];
extern const char tiny_triple_fault[], tiny_triple_fault_end[];
extern const char tiny_pause_noticing[], tiny_pause_noticing_end[];
}

namespace hearth::vmm::testing {
namespace {

template <typename T>
void Append(std::string& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

struct EntryNote {
  Elf64_Nhdr header{4, 4, 18};  // XEN_ELFNOTE_PHYS32_ENTRY.
  char name[4] = {'X', 'e', 'n', '\0'};
  uint32_t entry = 0;
};

}  // namespace

std::string MakeKernel(const std::vector<GuestSegment>& segments, uint32_t entry) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof(header);
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = static_cast<uint16_t>(segments.size() + 1);
  std::string file;
  Append(file, header);

  uint64_t offset = sizeof(header) + header.e_phnum * sizeof(Elf64_Phdr);
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = offset;
  note.p_filesz = note.p_memsz = sizeof(EntryNote);
  note.p_align = 4;
  Append(file, note);
  offset += sizeof(EntryNote);
  for (const GuestSegment& segment : segments) {
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_offset = offset;
    load.p_paddr = load.p_vaddr = segment.address;
    load.p_filesz = load.p_memsz = segment.bytes.size();
    Append(file, load);
    offset += segment.bytes.size();
  }
  EntryNote contents;
  contents.entry = entry;
  Append(file, contents);
  for (const GuestSegment& segment : segments) file += segment.bytes;
  return file;
}

UniqueFd MemoryFile(absl::string_view bytes) {
  UniqueFd fd(memfd_create("hearth-test", MFD_CLOEXEC));
  if (!fd ||
      pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    std::perror("memfd");
    std::abort();
  }
  return fd;
}

std::string DoNothingCode() { return {tiny_do_nothing, tiny_do_nothing_end}; }

std::string HelloCode(absl::string_view text) {
  std::string code(tiny_hello, tiny_hello_end);
  code.append(text.data(), text.size());
  code.push_back('\0');
  return code;
}

std::string CountingCode() { return {tiny_counting, tiny_counting_end}; }
std::string SpinningCode() { return {tiny_spinning, tiny_spinning_end}; }
std::string HaltCode() { return {tiny_halt, tiny_halt_end}; }
std::string TripleFaultCode() { return {tiny_triple_fault, tiny_triple_fault_end}; }
std::string PauseNoticingCode() { return {tiny_pause_noticing, tiny_pause_noticing_end}; }

std::string KernelOf(std::string code) { return MakeKernel({{kCodeAddress, std::move(code)}}); }

}  // namespace hearth::vmm::testing
