// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/busy_guest.h"

// 32-bit code for 0x100000 without paging. Tables stand in the code; their addresses are below 64
// KiB from its start, so the upper half of each is the base's.
asm(R"(
    .pushsection .rodata
    .code32
    .set BUSY_BASE, 0x100000
busy_code:
    mov $0x80000, %esp
    lgdt BUSY_BASE + busy_gdtr - busy_code
    lidt BUSY_BASE + busy_idtr - busy_code
    movl $0x1ff, 0xfee000f0     # Local APIC on; spurious interrupts at 0xff.
    mov BUSY_BASE + busy_mode - busy_code, %ebp
    test $1, %ebp
    jnz 1f
    movl $0xb, 0xfee003e0       # Periodic, vector 0x40, each 500 us.
    movl $0x20040, 0xfee00320
    movl $500000, 0xfee00380
    jmp 2f
1:  movl $0x40040, 0xfee00320   # TSC deadline, vector 0x40.
    mfence
    call busy_arm
2:  mov $(BUSY_BASE + busy_other - busy_code), %esi
    mov $0x8000, %edi
    mov $(busy_other_end - busy_other), %ecx
    rep movsb
    movl $0xc4500, 0xfee00300   # INIT to all others, then start them at 0x8000.
    movl $0xc4608, 0xfee00300
    mov $0x13579bdf, %ebx
    mov $0x2468ace0, %esi
    mov $0xdeadbeef, %edi
    sti
busy_round:
    incl 0x200000
    mov 0xd0000000, %eax
    cmp $0x74726976, %eax
    jne busy_bad
    out %al, $0x80
    cmp $0x13579bdf, %ebx
    jne busy_bad
    cmp $0x2468ace0, %esi
    jne busy_bad
    cmp $0xdeadbeef, %edi
    jne busy_bad
    cmp $0x80000, %esp
    jne busy_bad
    rdtsc
    cmp 0x200014, %edx
    jb busy_bad
    ja 1f
    cmp 0x200010, %eax
    jb busy_bad
1:  mov %eax, 0x200010
    mov %edx, 0x200014
    test $2, %ebp
    jz busy_round
    hlt
    jmp busy_round
busy_bad:
    ud2                         # No handler: a triple fault.

busy_arm:                       # In 1,000,000 cycles.
    mov $0x6e0, %ecx
    rdtsc
    add $1000000, %eax
    adc $0, %edx
    wrmsr
    ret

busy_tick:
    push %eax
    push %ecx
    push %edx
    incl 0x200004
    test $1, %ebp
    jz 1f
    call busy_arm
1:  movl $0, 0xfee000b0         # End of interrupt.
    pop %edx
    pop %ecx
    pop %eax
    pushl 8(%esp)               # An IRET to the same ring by hand: a KVM that interprets kernel
    popf                        # mode cannot emulate the instruction.
    ret $8

    .code16
busy_other:
    xor %ax, %ax
    mov %ax, %ds
    mov $1, %eax
    cpuid
    shr $24, %ebx
    shl $2, %ebx
1:  incl 0x9000(%bx)
    jmp 1b
busy_other_end:

    .code32
    .balign 8
busy_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
busy_gdtr:
    .word 23
    .long BUSY_BASE + busy_gdt - busy_code
busy_idtr:
    .word 0x41 * 8 - 1
    .long BUSY_BASE + busy_idt - busy_code
    .balign 8
busy_idt:
    .fill 0x40, 8, 0
    .word busy_tick - busy_code, 8, 0x8e00, BUSY_BASE >> 16
busy_mode:
    .long 0
busy_code_end:

pending_code:
    mov $0x80000, %esp
    lgdt BUSY_BASE + pending_gdtr - pending_code
    lidt BUSY_BASE + pending_idtr - pending_code
    movl $0x1ff, 0xfee000f0
    movl $0x40040, 0xfee00300   # Vector 0x40 to itself.
1:  incl 0x200000
    cmpl $0, 0x200008
    je 1b
    sti
2:  hlt
    jmp 2b
pending_handler:
    movl $1, 0x20000c
    movl $0, 0xfee000b0
    pushl 8(%esp)
    popf
    ret $8
    .balign 8
pending_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
pending_gdtr:
    .word 23
    .long BUSY_BASE + pending_gdt - pending_code
pending_idtr:
    .word 0x41 * 8 - 1
    .long BUSY_BASE + pending_idt - pending_code
    .balign 8
pending_idt:
    .fill 0x40, 8, 0
    .word pending_handler - pending_code, 8, 0x8e00, BUSY_BASE >> 16
pending_code_end:
    .code64
    .popsection
)");

extern "C" {
extern const char busy_code[], busy_code_end[];
extern const char pending_code[], pending_code_end[];
}

namespace hearth::vmm::testing {

std::string BusyCode(const BusyOptions& options) {
  std::string code(busy_code, busy_code_end);
  // busy_mode, its last word.
  code[code.size() - 4] =
      static_cast<char>((options.deadline_timer ? 1 : 0) | (options.halts ? 2 : 0));
  return code;
}

std::string PendingInterruptCode() { return {pending_code, pending_code_end}; }

}  // namespace hearth::vmm::testing
