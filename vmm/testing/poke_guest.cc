// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/poke_guest.h"

#include <cstdlib>
#include <vector>

#include "vmm/testing/tiny_guest.h"

// ESI walks the table; an entry is operation, address (EBX), value (ECX), count (EBP). The
// operations stand in a table of 32-bit addresses behind the code, for a base of 0x100000.
asm(R"(
    .pushsection .rodata
    .code32
    .set BASE, 0x100000
poke_code:
    mov $0x110000, %esi
    mov $0x80000, %esp
poke_next:
    mov (%esi), %eax
    mov 4(%esi), %ebx
    mov 8(%esi), %ecx
    mov 12(%esi), %ebp
    add $16, %esi
    cmp $20, %eax
    ja poke_end
    mov (BASE + poke_table - poke_code)(,%eax,4), %eax
    jmp *%eax

poke_end:
    mov $0xfe, %al
    out %al, $0x64
1:  hlt
    jmp 1b

poke_write8:
    mov %cl, (%ebx)
    jmp poke_next
poke_write16:
    mov %cx, (%ebx)
    jmp poke_next
poke_write32:
    mov %ecx, (%ebx)
    jmp poke_next
poke_write64:                   # The first exchange reads what is there, the second one writes.
    mov %ebx, %edi
    mov %ecx, %ebx
    xor %eax, %eax
    xor %edx, %edx
    cmpxchg8b (%edi)
    cmpxchg8b (%edi)
    jmp poke_next
poke_read8:
    movb (%ebx), %al
    movzbl %al, %eax
    jmp poke_emit
poke_read16:
    movw (%ebx), %ax
    movzwl %ax, %eax
    jmp poke_emit
poke_read32:
    mov (%ebx), %eax
    jmp poke_emit
poke_out8:
    mov %ebx, %edx
    mov %ecx, %eax
    out %al, %dx
    jmp poke_next
poke_out16:
    mov %ebx, %edx
    mov %ecx, %eax
    out %ax, %dx
    jmp poke_next
poke_out32:
    mov %ebx, %edx
    mov %ecx, %eax
    out %eax, %dx
    jmp poke_next
poke_in8:
    mov %ebx, %edx
    in %dx, %al
    movzbl %al, %eax
    jmp poke_emit
poke_in16:
    mov %ebx, %edx
    in %dx, %ax
    movzwl %ax, %eax
    jmp poke_emit
poke_in32:
    mov %ebx, %edx
    in %dx, %eax
poke_emit:
    mov $0x3f8, %edx
    mov $4, %ecx
1:  out %al, %dx
    shr $8, %eax
    dec %ecx
    jnz 1b
    jmp poke_next

poke_repeat:                    # Counts down in its own entry.
    decl -8(%esi)
    jz poke_next
    mov %ebx, %esi
    jmp poke_next

poke_wait16:
    mov $1, %eax
1:  cmp %cx, (%ebx)
    je poke_emit
    pause
    dec %ebp
    jnz 1b
    xor %eax, %eax
    jmp poke_emit

poke_wait_bits32:
1:  mov (%ebx), %eax
    and %ecx, %eax
    cmp %eax, %ecx
    je 2f
    pause
    dec %ebp
    jnz 1b
    xor %eax, %eax
    jmp poke_emit
2:  mov $1, %eax
    jmp poke_emit

poke_random:                    # ECX: xorshift32.
    mov %ecx, %eax
    shl $13, %eax
    xor %eax, %ecx
    mov %ecx, %eax
    shr $17, %eax
    xor %eax, %ecx
    mov %ecx, %eax
    shl $5, %eax
    xor %eax, %ecx
    ret

poke_fuzz:
    call poke_random
    mov %ecx, %edi              # Where: half of the accesses aligned and among the registers.
    shr $7, %edi
    and $0xfff, %edi
    test $0x10, %ecx
    jz 1f
    and $0x1fc, %edi
1:  cmp $0xff8, %edi
    jbe 2f
    mov $0xff8, %edi
2:  add %ebx, %edi
    mov %ecx, %edx              # What: random bits, a small number, or ones.
    call poke_random
    mov %ecx, %eax
    test $0x20, %edx
    jz 3f
    and $0xf, %eax
3:  test $0xc0, %edx
    jnz 4f
    or $-1, %eax
4:  and $7, %edx
    jz 5f
    cmp $1, %edx
    jz 6f
    cmp $2, %edx
    jz 7f
    cmp $3, %edx
    jz 8f
    mov %eax, (%edi)
    jmp 9f
5:  movb (%edi), %al
    jmp 9f
6:  mov %al, (%edi)
    jmp 9f
7:  mov %ax, (%edi)
    jmp 9f
8:  mov (%edi), %eax
9:  dec %ebp
    jnz poke_fuzz
    jmp poke_next

poke_fill:
    mov %ebx, %edi
    mov %ecx, %eax
    mov %ebp, %ecx
    rep stosl
    jmp poke_next
poke_fill_random:
    call poke_random
    mov %ecx, (%ebx)
    add $4, %ebx
    dec %ebp
    jnz poke_fill_random
    jmp poke_next

poke_flip:                      # The flipper finds its orders from 0x9000 on.
    mov %ebx, 0x9000
    dec %ebp
    mov %ebp, 0x9004
    mov %ecx, 0x9008
    movl $1, 0x900c
    movl $0, 0x9010
    movl $0, 0x9014
    mov %esi, %edx
    mov $(BASE + poke_flipper - poke_code), %esi
    mov $0x8000, %edi
    mov $(poke_flipper_end - poke_flipper), %ecx
    rep movsb
    mov %edx, %esi
    movl $0x1ff, 0xfee000f0     # Local APIC on; INIT to all others, then start them at 0x8000.
    movl $0xc4500, 0xfee00300
    movl $0xc4608, 0xfee00300
1:  pause
    cmpl $0, 0x9010
    je 1b
    jmp poke_next

    .code16
poke_flipper:
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + poke_flipper_gdtr - poke_flipper
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $8, $(0x8000 + poke_flipper_flat - poke_flipper)
    .code32
poke_flipper_flat:
    mov $16, %eax
    mov %eax, %ds
    mov 0x9000, %esi
    mov 0x9004, %ebp
    mov 0x9008, %ecx
1:  mov %ecx, %eax              # ECX: xorshift32, as above, but without a stack.
    shl $13, %eax
    xor %eax, %ecx
    mov %ecx, %eax
    shr $17, %eax
    xor %eax, %ecx
    mov %ecx, %eax
    shl $5, %eax
    xor %eax, %ecx
    mov %ecx, %ebx              # Its low five bits say which bit, the others of which word.
    shr $5, %ebx
    and %ebp, %ebx
    mov $1, %edx
    shl %cl, %edx
    xor %edx, (%esi,%ebx,4)
    pause
    xor %edx, (%esi,%ebx,4)
    incl 0x9010
    cmpl $0, 0x900c
    jne 1b
    movl $1, 0x9014
2:  hlt
    jmp 2b
    .balign 8
poke_flipper_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
poke_flipper_gdtr:
    .word 23
    .long 0x8000 + poke_flipper_gdt - poke_flipper
poke_flipper_end:

    .balign 4
poke_table:
    .long BASE + poke_end - poke_code
    .long BASE + poke_write8 - poke_code, BASE + poke_write16 - poke_code
    .long BASE + poke_write32 - poke_code, BASE + poke_write64 - poke_code
    .long BASE + poke_read8 - poke_code, BASE + poke_read16 - poke_code
    .long BASE + poke_read32 - poke_code
    .long BASE + poke_out8 - poke_code, BASE + poke_out16 - poke_code
    .long BASE + poke_out32 - poke_code
    .long BASE + poke_in8 - poke_code, BASE + poke_in16 - poke_code
    .long BASE + poke_in32 - poke_code
    .long BASE + poke_repeat - poke_code, BASE + poke_wait16 - poke_code
    .long BASE + poke_fuzz - poke_code, BASE + poke_fill - poke_code
    .long BASE + poke_fill_random - poke_code, BASE + poke_wait_bits32 - poke_code
    .long BASE + poke_flip - poke_code
poke_code_end:
    .code64
    .popsection
)");

extern "C" {
extern const char poke_code[], poke_code_end[];
}

namespace hearth::vmm::testing {

PokeScript& PokeScript::Add(uint32_t operation, uint32_t address, uint32_t value, uint32_t count) {
  for (const uint32_t field : {operation, address, value, count}) {
    for (int shift = 0; shift < 32; shift += 8) {
      table_.push_back(static_cast<char>(field >> shift));
    }
  }
  if (table_.size() > kTableEnd - kTableAddress - kEntryBytes) std::abort();  // The test is wrong.
  return *this;
}

PokeScript& PokeScript::Repeat(size_t from, uint32_t times) {
  return Add(14, static_cast<uint32_t>(kTableAddress + from * kEntryBytes), times);
}

std::string PokeScript::Kernel() const {
  std::string table = table_;
  table.append(kEntryBytes, '\0');  // Operation 0 ends.
  return MakeKernel({{kCodeAddress, {poke_code, poke_code_end}}, {kTableAddress, table}});
}

}  // namespace hearth::vmm::testing
