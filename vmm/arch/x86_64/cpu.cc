// SPDX-License-Identifier: Apache-2.0
#include "vmm/arch/x86_64/cpu.h"

#include <asm/kvm_para.h>

#include <algorithm>
#include <bit>

namespace hearth::vmm::x86_64 {
namespace {

constexpr uint32_t Bit(uint32_t n) { return uint32_t{1} << n; }

// Kept of KVM's paravirtual features: the clock, free I/O delays, cheap end of interrupt. Left out:
// asynchronous page faults and everything for many processors.
constexpr uint32_t kKvmFeatures = Bit(KVM_FEATURE_CLOCKSOURCE) | Bit(KVM_FEATURE_CLOCKSOURCE2) |
                                  Bit(KVM_FEATURE_NOP_IO_DELAY) | Bit(KVM_FEATURE_PV_EOI) |
                                  Bit(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);

// How many bits of an APIC id tell one core of the package from another.
uint32_t CoreBits(uint32_t vcpu_count) {
  return static_cast<uint32_t>(std::bit_width(vcpu_count - 1));
}

void AdaptFeatures(kvm_cpuid_entry2& entry, bool tsc_deadline, uint32_t vcpu_count) {
  // EBX: 23-16 is the number of APIC ids in the package, 31-24 the APIC id; bits 8-15 (CLFLUSH
  // size) stay. EDX 28 (HTT): there is more than one.
  entry.ebx = (entry.ebx & 0xff00) | Bit(CoreBits(vcpu_count)) << 16;
  entry.edx &= ~Bit(28);
  if (vcpu_count > 1) entry.edx |= Bit(28);
  // ECX: no DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, PDCM; HYPERVISOR on.
  entry.ecx &= ~(Bit(2) | Bit(3) | Bit(4) | Bit(5) | Bit(6) | Bit(7) | Bit(8) | Bit(15));
  entry.ecx |= Bit(31);
  if (tsc_deadline) entry.ecx |= Bit(24);
}

// Leaf 0xb and 0x1f: a thread level with one in each core, and a core level with all. EAX is how
// far to shift an x2APIC id for the next level's.
void AdaptTopology(kvm_cpuid_entry2& entry, uint32_t vcpu_count) {
  const uint32_t level_type = entry.index == 0 ? 1 : entry.index == 1 ? 2 : 0;
  entry.eax = level_type == 2 ? CoreBits(vcpu_count) : 0;
  entry.edx = 0;  // The x2APIC id.
  entry.ebx = level_type == 0 ? 0 : level_type == 1 ? 1 : vcpu_count;
  entry.ecx = entry.index | level_type << 8;
}

// Intel's and AMD's cache leaves: EAX 25-14 is how many APIC ids share the cache, less one. The
// caches of the first two levels (EAX 7-5) belong to a core, the others to all.
void AdaptCache(kvm_cpuid_entry2& entry, uint32_t vcpu_count) {
  const uint32_t level = entry.eax >> 5 & 7;
  entry.eax &= 0x3fff;
  if (level > 2) entry.eax |= (Bit(CoreBits(vcpu_count)) - 1) << 14;
}

// AMX: its state is a guest's only when the process asked for it (ARCH_REQ_XCOMP_GUEST_PERM), and
// what KVM reports without differs from kernel to kernel.
constexpr uint32_t kTileConfig = 17, kTileData = 18;  // XCR0's bits, and leaf 0xd's indices.

void HideTiles(kvm_cpuid_entry2& entry) {
  if (entry.function == 0x7 && entry.index == 0) entry.edx &= ~(Bit(22) | Bit(24) | Bit(25));
  if (entry.function == 0x7 && entry.index == 1) {
    entry.eax &= ~Bit(21);
    entry.edx &= ~Bit(8);
  }
  if (entry.function == 0xd && entry.index == 0) entry.eax &= ~(Bit(kTileConfig) | Bit(kTileData));
  if (entry.function == 0xd && entry.index == 1) entry.eax &= ~Bit(4);  // XFD is for nothing else.
  if (entry.function == 0xd && (entry.index == kTileConfig || entry.index == kTileData)) {
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
  }
}

}  // namespace

void AdaptCpuid(std::vector<kvm_cpuid_entry2>& entries, bool tsc_deadline, uint32_t vcpu_count) {
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 0x1:
        AdaptFeatures(entry, tsc_deadline, vcpu_count);
        break;
      case 0x4:  // Intel's: EAX 31-26 is the number of core ids in the package, less one.
        AdaptCache(entry, vcpu_count);
        if ((entry.eax & 0x1f) != 0) entry.eax |= (Bit(CoreBits(vcpu_count)) - 1) << 26;
        break;
      case 0x6:         // Thermal and power: nothing.
      case 0xa:         // Performance counters: nothing,
      case 0x80000022:  // AMD's either.
      case 0x1d:        // AMX's tiles: nothing.
      case 0x1e:
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case 0x7:
      case 0xd:
        HideTiles(entry);
        break;
      case 0xb:
      case 0x1f:
        AdaptTopology(entry, vcpu_count);
        break;
      case KVM_CPUID_FEATURES:
        entry.eax &= kKvmFeatures;
        entry.edx = 0;
        break;
      case 0x80000001:  // AMD: SVM, performance counter extensions, topology extensions' siblings.
        entry.ecx &= ~(Bit(1) | Bit(2) | Bit(23) | Bit(24) | Bit(28));
        if (vcpu_count > 1) entry.ecx |= Bit(1);  // CmpLegacy: leaf 1's HTT means cores.
        break;
      case 0x80000008:  // ECX 7-0: cores less one; 15-12: bits of the APIC id that tell them apart.
        entry.ecx = (vcpu_count - 1) | CoreBits(vcpu_count) << 12;
        break;
      case 0x8000000a:  // SVM's features.
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case 0x8000001d:
        AdaptCache(entry, vcpu_count);
        break;
      case 0x8000001e:  // AMD: APIC id; core id, one thread in a core; one node.
        entry.eax = entry.ebx = entry.ecx = 0;
        break;
      default:
        break;
    }
  }
  // A nested hypervisor's enlightenments (Hyper-V's leaves) are not ours to offer.
  std::erase_if(entries, [](const kvm_cpuid_entry2& entry) {
    return entry.function > KVM_CPUID_FEATURES && entry.function < 0x80000000;
  });
}

void SetCpuidApicId(std::vector<kvm_cpuid_entry2>& entries, uint32_t id) {
  for (kvm_cpuid_entry2& entry : entries) {
    switch (entry.function) {
      case 0x1:
        entry.ebx = (entry.ebx & 0x00ff'ffff) | id << 24;
        break;
      case 0xb:
      case 0x1f:
        entry.edx = id;
        break;
      case 0x8000001e:
        entry.eax = id;
        entry.ebx = (entry.ebx & ~uint32_t{0xff}) | id;
        break;
      default:
        break;
    }
  }
}

absl::Status SetPvhEntry(Vcpu& vcpu, uint32_t entry, uint32_t start_info_address) {
  ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu.GetSregs());
  kvm_segment flat{};
  flat.limit = 0xffff'ffff;
  flat.present = 1;
  flat.s = 1;   // A code or data segment.
  flat.db = 1;  // 32 bits.
  flat.g = 1;   // The limit counts pages.
  sregs.cs = flat;
  sregs.cs.selector = 0x08;
  sregs.cs.type = 0xb;  // Execute, read, accessed.
  for (kvm_segment* data : {&sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss}) {
    *data = flat;
    data->selector = 0x10;
    data->type = 0x3;  // Read, write, accessed.
  }
  sregs.tr = {};
  sregs.tr.limit = 0x67;
  sregs.tr.selector = 0x18;
  sregs.tr.present = 1;
  sregs.tr.type = 0xb;  // A busy 32-bit task state segment.
  sregs.ldt = {};
  sregs.ldt.unusable = 1;
  sregs.gdt = {};
  sregs.idt = {};
  sregs.cr0 = 0x11;  // Protection on; ET is fixed to one.
  sregs.cr3 = sregs.cr4 = sregs.efer = 0;
  RETURN_IF_ERROR(vcpu.SetSregs(sregs));

  kvm_regs regs{};
  regs.rflags = 2;
  regs.rip = entry;
  regs.rbx = start_info_address;
  return vcpu.SetRegs(regs);
}

}  // namespace hearth::vmm::x86_64
