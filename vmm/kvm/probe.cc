// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/probe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <optional>

#include "vmm/base/unique_fd.h"
#include "vmm/kvm/system.h"

namespace hearth::vmm {
namespace {

// The guest's physical memory, identity-mapped by one 2 MiB page.
constexpr uint64_t kMemoryBytes = 64 * 1024;
constexpr uint64_t kPml4 = 0x1000;
constexpr uint64_t kPdpt = 0x2000;
constexpr uint64_t kPageDirectory = 0x3000;
constexpr uint64_t kCode = 0x4000;
constexpr uint64_t kHandler = 0x4800;
constexpr uint64_t kData = 0x5000;  // Zeroes: a valid XSAVE area in its initial state.
constexpr uint64_t kIdt = 0x7000;
constexpr uint64_t kGdt = 0x8000;
constexpr uint64_t kStackTop = 0xa000;
constexpr uint16_t kCodeSelector = 8;
constexpr uint16_t kDataSelector = 16;

constexpr int kSpeedTries = 5;

constexpr uint64_t kCr0 = 0x80000033;  // PG, NE, ET, MP, PE (Intel SDM 3A 2.5).
constexpr uint64_t kCr4Pae = 1u << 5;
constexpr uint64_t kCr4Osfxsr = 1u << 9;
constexpr uint64_t kCr4Osxsave = 1u << 18;
constexpr uint64_t kEferLmeLma = 0x500;

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

// While it lives a signal comes every kProbeGuestSeconds, which ends a KVM_RUN.
class Watchdog {
 public:
  Watchdog() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    sigaction(SIGALRM, &action, &previous_);
    const itimerval timer{{kProbeGuestSeconds, 0}, {kProbeGuestSeconds, 0}};
    setitimer(ITIMER_REAL, &timer, nullptr);
  }
  ~Watchdog() {
    const itimerval off{};
    setitimer(ITIMER_REAL, &off, nullptr);
    sigaction(SIGALRM, &previous_, nullptr);
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct sigaction previous_ {};
};

class GuestRam {
 public:
  GuestRam()
      : data_(mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                   0)) {}
  ~GuestRam() {
    if (data_ != MAP_FAILED) munmap(data_, kMemoryBytes);
  }
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;
  bool ok() const { return data_ != MAP_FAILED; }
  void* data() { return data_; }
  void Put(uint64_t address, const void* bytes, size_t size) {
    std::memcpy(static_cast<char*>(data_) + address, bytes, size);
  }
  void Put64(uint64_t address, uint64_t value) { Put(address, &value, sizeof value); }

 private:
  void* data_;
};

// A machine in 64-bit mode at CPL 0 that runs `code`; interrupt 3 ends in a HLT.
class TinyGuest {
 public:
  static absl::StatusOr<TinyGuest> Create(const System& system, GuestRam* ram,
                                          std::initializer_list<uint8_t> code) {
    Lay(ram, code);
    ASSIGN_OR_RETURN(Vm vm, system.CreateVm());
    RETURN_IF_ERROR(vm.SetTssAddress(0xfffbd000));
    RETURN_IF_ERROR(vm.SetMemoryRegion(0, 0, ram->data(), kMemoryBytes));
    ASSIGN_OR_RETURN(Vcpu vcpu, vm.CreateVcpu(0));
    ASSIGN_OR_RETURN(const auto cpuid, system.SupportedCpuid());
    RETURN_IF_ERROR(vcpu.SetCpuid(cpuid));
    const bool xsave = std::any_of(cpuid.begin(), cpuid.end(), [](const kvm_cpuid_entry2& entry) {
      return entry.function == 1 && (entry.ecx & 1u << 26) != 0;
    });
    RETURN_IF_ERROR(SetMode(&vcpu, xsave));
    return TinyGuest(std::move(vm), std::move(vcpu), xsave);
  }

  bool has_xsave() const { return xsave_; }

  // From the code's start, with `count` in RCX, until it leaves the guest.
  absl::Status Start(uint64_t count) {
    kvm_regs regs{};
    regs.rip = kCode;
    regs.rsp = kStackTop;
    regs.rflags = 2;
    regs.rcx = count;
    regs.rdi = kData;
    RETURN_IF_ERROR(vcpu_.SetRegs(regs));
    return Continue();
  }
  absl::Status Continue() {
    ASSIGN_OR_RETURN(const Vcpu::RunResult result, vcpu_.Run());
    if (result == Vcpu::RunResult::kInterrupted) {
      return absl::DeadlineExceededError(
          absl::StrCat("the guest did not come back within ", kProbeGuestSeconds, " s"));
    }
    return absl::OkStatus();
  }

  bool halted() { return vcpu_.run().exit_reason == KVM_EXIT_HLT; }
  std::string ExitText() {
    const kvm_run& run = vcpu_.run();
    switch (run.exit_reason) {
      case KVM_EXIT_SHUTDOWN:
        return "it faults";
      case KVM_EXIT_INTERNAL_ERROR:
        return run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                   ? "this KVM cannot emulate it"
                   : absl::StrCat("KVM internal error ", run.internal.suberror);
      case KVM_EXIT_FAIL_ENTRY:
        return "KVM cannot enter the guest";
      default:
        return absl::StrCat("unexpected exit ", run.exit_reason);
    }
  }

 private:
  TinyGuest(Vm vm, Vcpu vcpu, bool xsave)
      : vm_(std::move(vm)), vcpu_(std::move(vcpu)), xsave_(xsave) {}

  static void Lay(GuestRam* ram, std::initializer_list<uint8_t> code) {
    std::memset(ram->data(), 0, kMemoryBytes);
    ram->Put64(kPml4, kPdpt | 3);
    ram->Put64(kPdpt, kPageDirectory | 3);
    ram->Put64(kPageDirectory, 0x83);  // Present, writable, 2 MiB.
    ram->Put64(kGdt + kCodeSelector, 0x00af9b000000ffff);
    ram->Put64(kGdt + kDataSelector, 0x00cf93000000ffff);
    // Vector 3: a 64-bit interrupt gate (Intel SDM 3A 6.14.1).
    ram->Put64(kIdt + 3 * 16, (kHandler & 0xffff) | uint64_t{kCodeSelector} << 16 |
                                  uint64_t{0x8e00} << 32 | (kHandler >> 16) << 48);
    ram->Put(kCode, std::data(code), code.size());
    const uint8_t halt = 0xf4;
    ram->Put(kHandler, &halt, 1);
  }

  static absl::Status SetMode(Vcpu* vcpu, bool xsave) {
    ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu->GetSregs());
    kvm_segment code{};
    code.limit = 0xffffffff;
    code.selector = kCodeSelector;
    code.type = 11;  // Execute, read, accessed.
    code.present = code.s = code.l = code.g = 1;
    kvm_segment data = code;
    data.selector = kDataSelector;
    data.type = 3;  // Read, write, accessed.
    data.l = 0;
    data.db = 1;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
    sregs.gdt.base = kGdt;
    sregs.gdt.limit = 23;
    sregs.idt.base = kIdt;
    sregs.idt.limit = 4 * 16 - 1;
    sregs.cr0 = kCr0;
    sregs.cr3 = kPml4;
    sregs.cr4 = kCr4Pae | kCr4Osfxsr | (xsave ? kCr4Osxsave : 0);
    sregs.efer = kEferLmeLma;
    return vcpu->SetSregs(sregs);
  }

  Vm vm_;
  Vcpu vcpu_;
  bool xsave_;
};

// sub rcx, 1; jnz back; hlt
constexpr std::initializer_list<uint8_t> kLoop = {0x48, 0x83, 0xe9, 0x01, 0x75, 0xfa, 0xf4};
// out 0x10, al; jmp back
constexpr std::initializer_list<uint8_t> kPortLoop = {0xe6, 0x10, 0xeb, 0xfc};
// xor eax, eax; xor edx, edx; lock cmpxchg16b [rdi]; hlt
constexpr std::initializer_list<uint8_t> kCmpxchg16b = {0x31, 0xc0, 0x31, 0xd2, 0xf0,
                                                        0x48, 0x0f, 0xc7, 0x0f, 0xf4};
// mov eax, 1; xor edx, edx; xrstor [rdi]; hlt
constexpr std::initializer_list<uint8_t> kXrstor = {0xb8, 0x01, 0x00, 0x00, 0x00, 0x31,
                                                    0xd2, 0x0f, 0xae, 0x2f, 0xf4};
// int3; ud2: only the handler's HLT is a good end.
constexpr std::initializer_list<uint8_t> kInt3 = {0xcc, 0x0f, 0x0b};

// The shortest of some runs: a busy host makes any of them longer, and none shorter.
absl::StatusOr<uint64_t> BestOf(int tries, TinyGuest* guest, uint64_t count) {
  uint64_t best_ns = UINT64_MAX;
  for (int i = 0; i < tries; ++i) {
    const uint64_t start = NowNs();
    RETURN_IF_ERROR(guest->Start(count));
    best_ns = std::min(best_ns, std::max<uint64_t>(NowNs() - start, 1));
    if (!guest->halted()) return absl::InternalError(guest->ExitText());
  }
  return best_ns;
}

absl::Status MeasureSpeed(const System& system, GuestRam* ram, ProbeReport* report) {
  const uint64_t create_start = NowNs();
  ASSIGN_OR_RETURN(TinyGuest guest, TinyGuest::Create(system, ram, kLoop));
  report->create_ms = static_cast<double>(NowNs() - create_start) / 1e6;
  // Longer loops until one takes long enough to be measured; an interpreter needs only the first.
  for (uint64_t count = 50'000; count <= 12'800'000; count *= 16) {
    ASSIGN_OR_RETURN(const uint64_t took_ns, BestOf(kSpeedTries, &guest, count));
    report->kernel_instructions_per_second =
        2e9 * static_cast<double>(count) / static_cast<double>(took_ns);
    if (took_ns > 10'000'000) break;
  }
  ASSIGN_OR_RETURN(TinyGuest ports, TinyGuest::Create(system, ram, kPortLoop));
  RETURN_IF_ERROR(ports.Start(0));
  constexpr int kExits = 200;
  const uint64_t start = NowNs();
  for (int i = 0; i < kExits; ++i) RETURN_IF_ERROR(ports.Continue());
  report->exit_us = static_cast<double>(NowNs() - start) / 1e3 / kExits;
  return absl::OkStatus();
}

ProbeReport::Instruction TryInstruction(const System& system, GuestRam* ram, const char* name,
                                        std::initializer_list<uint8_t> code, bool needs_xsave) {
  ProbeReport::Instruction result{name, false, ""};
  absl::StatusOr<TinyGuest> guest = TinyGuest::Create(system, ram, code);
  absl::Status status = guest.status();
  if (status.ok() && needs_xsave && !guest->has_xsave()) {
    // Linux does not use it then.
    result.works = true;
    result.detail = "not offered to guests, so not needed";
    return result;
  }
  if (status.ok()) status = guest->Start(0);
  if (!status.ok()) {
    result.detail = std::string(status.message());
  } else if (guest->halted()) {
    result.works = true;
  } else {
    result.detail = guest->ExitText();
  }
  return result;
}

}  // namespace

bool ProbeReport::usable() const {
  return device.ok() && machine.ok() && fast() &&
         std::all_of(instructions.begin(), instructions.end(),
                     [](const Instruction& instruction) { return instruction.works; });
}

ProbeReport ProbeKvm(const std::string& device) {
  ProbeReport report;
  UniqueFd fd(open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) {
    report.device = ErrnoStatus(absl::StrCat("open ", device));
    return report;
  }
  const absl::StatusOr<System> system = System::Create(std::move(fd));
  if (!system.ok()) {
    report.device = system.status();
    return report;
  }
  GuestRam ram;
  if (!ram.ok()) {
    report.machine = ErrnoStatus("mmap guest memory");
    return report;
  }
  const Watchdog watchdog;
  report.machine = MeasureSpeed(*system, &ram, &report);
  if (!report.machine.ok()) return report;
  report.instructions = {TryInstruction(*system, &ram, "cmpxchg16b", kCmpxchg16b, false),
                         TryInstruction(*system, &ram, "xrstor", kXrstor, true),
                         TryInstruction(*system, &ram, "int3", kInt3, false)};
  return report;
}

}  // namespace hearth::vmm
