// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/saved_state.h"

#include <google/protobuf/arena.h>

#include <cstring>
#include <type_traits>

#include "vmm/machine/limits.h"
#include "vmm/snapshot/limits.h"
#include "wire/limits.h"

namespace hearth::vmm {
namespace {

// The kernel's ABI, x86-64; a saved state holds these structs as they are.
static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312 && sizeof(kvm_xcrs) == 392);
static_assert(sizeof(kvm_debugregs) == 128 && sizeof(kvm_lapic_state) == 1024);
static_assert(sizeof(kvm_vcpu_events) == 64 && sizeof(kvm_pic_state) == 16);
static_assert(sizeof(kvm_ioapic_state) == 216);

template <typename T>
std::string Bytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
absl::Status Take(const std::string& bytes, absl::string_view field, T& to) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (bytes.size() != sizeof(T)) {
    return absl::InvalidArgumentError(absl::StrCat("the saved state's ", field, " has ",
                                                   bytes.size(), " bytes, not ", sizeof(T)));
  }
  std::memcpy(&to, bytes.data(), sizeof(T));
  return absl::OkStatus();
}

void ToProto(const SavedVcpuState& from, v1::SavedVcpu& to) {
  const VcpuState& vcpu = from.vcpu;
  to.set_mp_state(vcpu.mp_state.mp_state);
  to.set_regs(Bytes(vcpu.regs));
  to.set_sregs(Bytes(vcpu.sregs));
  to.set_xsave(vcpu.xsave.data(), vcpu.xsave.size());
  to.set_xcrs(Bytes(vcpu.xcrs));
  to.set_debug_regs(Bytes(vcpu.debug_regs));
  to.set_lapic(Bytes(vcpu.lapic));
  to.set_events(Bytes(vcpu.events));
  to.set_tsc_khz(from.tsc_khz);
  for (const kvm_cpuid_entry2& entry : from.cpuid) {
    v1::CpuidEntry& saved = *to.add_cpuid();
    saved.set_function(entry.function);
    saved.set_index(entry.index);
    saved.set_flags(entry.flags);
    saved.set_eax(entry.eax);
    saved.set_ebx(entry.ebx);
    saved.set_ecx(entry.ecx);
    saved.set_edx(entry.edx);
  }
  for (const kvm_msr_entry& msr : vcpu.msrs) {
    v1::Msr& saved = *to.add_msrs();
    saved.set_index(msr.index);
    saved.set_value(msr.data);
  }
}

absl::Status CheckCounts(const v1::SavedVcpu& from) {
  if (static_cast<size_t>(from.cpuid_size()) > kMaxSavedCpuidEntries ||
      static_cast<size_t>(from.msrs_size()) > kMaxSavedMsrs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a saved vCPU has ", from.cpuid_size(), " CPUID entries and ", from.msrs_size(),
        " MSRs; the limits are ", kMaxSavedCpuidEntries, " and ", kMaxSavedMsrs));
  }
  if (from.xsave().size() < sizeof(kvm_xsave) || from.xsave().size() > kMaxSavedXsaveBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a saved vCPU's XSAVE area has ",
                                                   from.xsave().size(), " bytes; it must have ",
                                                   sizeof(kvm_xsave), " to ", kMaxSavedXsaveBytes));
  }
  if (from.mp_state() > KVM_MP_STATE_SIPI_RECEIVED) {
    return absl::InvalidArgumentError(
        absl::StrCat("a saved vCPU's mp_state is ", from.mp_state(), ", which x86 does not have"));
  }
  if (from.tsc_khz() == 0 || from.tsc_khz() > kMaxTscKhz) {
    return absl::InvalidArgumentError(
        absl::StrCat("a saved vCPU's TSC runs at ", from.tsc_khz(), " kHz"));
  }
  return absl::OkStatus();
}

absl::Status FromProto(const v1::SavedVcpu& from, SavedVcpuState& to) {
  RETURN_IF_ERROR(CheckCounts(from));
  VcpuState& vcpu = to.vcpu;
  vcpu.mp_state.mp_state = from.mp_state();
  RETURN_IF_ERROR(Take(from.regs(), "regs", vcpu.regs));
  RETURN_IF_ERROR(Take(from.sregs(), "sregs", vcpu.sregs));
  vcpu.xsave.assign(from.xsave().begin(), from.xsave().end());
  RETURN_IF_ERROR(Take(from.xcrs(), "xcrs", vcpu.xcrs));
  RETURN_IF_ERROR(Take(from.debug_regs(), "debug_regs", vcpu.debug_regs));
  RETURN_IF_ERROR(Take(from.lapic(), "lapic", vcpu.lapic));
  RETURN_IF_ERROR(Take(from.events(), "events", vcpu.events));
  to.tsc_khz = from.tsc_khz();
  to.cpuid.reserve(static_cast<size_t>(from.cpuid_size()));
  for (const v1::CpuidEntry& saved : from.cpuid()) {
    kvm_cpuid_entry2 entry{};
    entry.function = saved.function();
    entry.index = saved.index();
    entry.flags = saved.flags();
    entry.eax = saved.eax();
    entry.ebx = saved.ebx();
    entry.ecx = saved.ecx();
    entry.edx = saved.edx();
    to.cpuid.push_back(entry);
  }
  vcpu.msrs.reserve(static_cast<size_t>(from.msrs_size()));
  for (const v1::Msr& msr : from.msrs()) vcpu.msrs.push_back({msr.index(), 0, msr.value()});
  if (!vcpu.Msr(kMsrTsc).has_value()) {
    return absl::InvalidArgumentError("a saved vCPU has no TSC");
  }
  return absl::OkStatus();
}

absl::Status TakeHoles(const v1::SavedMachine& saved, SavedMachineState& state) {
  if (static_cast<size_t>(saved.holes_size()) > kMaxHoles) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the saved machine's memory has ", saved.holes_size(), " holes; the limit is ", kMaxHoles));
  }
  const uint64_t pages = (uint64_t{state.memory_mib} << 20) / kGuestPageBytes;
  uint64_t end = 0;
  state.holes.reserve(static_cast<size_t>(saved.holes_size()));
  for (const v1::SavedHole& hole : saved.holes()) {
    if (hole.page_count() == 0 || hole.first_page() < end ||
        uint64_t{hole.first_page()} + hole.page_count() > pages) {
      return absl::InvalidArgumentError(
          "the saved machine's memory has holes that are empty, out of order or outside of it");
    }
    end = uint64_t{hole.first_page()} + hole.page_count();
    state.holes.push_back({hole.first_page(), hole.page_count()});
  }
  return absl::OkStatus();
}

}  // namespace

std::string SerializeMachineState(const SavedMachineState& state) {
  v1::SavedMachine saved;
  saved.set_format_version(kSavedMachineVersion);
  saved.set_memory_mib(state.memory_mib);
  for (const SavedVcpuState& vcpu : state.vcpus) ToProto(vcpu, *saved.add_vcpus());
  saved.mutable_vm()->set_clock_ns(state.vm.clock_ns);
  saved.mutable_vm()->set_pic_master(Bytes(state.vm.pic_master));
  saved.mutable_vm()->set_pic_slave(Bytes(state.vm.pic_slave));
  saved.mutable_vm()->set_ioapic(Bytes(state.vm.ioapic));
  *saved.mutable_devices() = state.devices;
  for (const PageRange& hole : state.holes) {
    v1::SavedHole& added = *saved.add_holes();
    added.set_first_page(static_cast<uint32_t>(hole.first_page));
    added.set_page_count(static_cast<uint32_t>(hole.page_count));
  }
  return saved.SerializeAsString();
}

absl::StatusOr<SavedMachineState> ParseMachineState(absl::string_view bytes) {
  if (bytes.size() > wire::kMaxSavedStateBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the saved state has ", bytes.size(), " bytes, the limit is ", wire::kMaxSavedStateBytes));
  }
  // Hundreds of small messages: an arena's cost a third of the heap's.
  google::protobuf::Arena arena;
  v1::SavedMachine& saved = *google::protobuf::Arena::CreateMessage<v1::SavedMachine>(&arena);
  if (!saved.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError("the saved state is truncated or no state at all");
  }
  if (saved.format_version() < kOldestSavedMachineVersion ||
      saved.format_version() > kSavedMachineVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the saved state has format version ", saved.format_version(), "; this VMM reads ",
        kOldestSavedMachineVersion, " to ", kSavedMachineVersion));
  }
  SavedMachineState state;
  state.memory_mib = saved.memory_mib();
  if (state.memory_mib < kMinMemoryMib || state.memory_mib > kMaxMemoryMib ||
      state.memory_mib % kMemoryGranuleMib != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the saved machine has ", state.memory_mib, " MiB of memory"));
  }
  if (saved.vcpus_size() < 1 || static_cast<uint32_t>(saved.vcpus_size()) > kMaxVcpus) {
    return absl::InvalidArgumentError(absl::StrCat("the saved machine has ", saved.vcpus_size(),
                                                   " vCPUs; this VMM offers 1 to ", kMaxVcpus));
  }
  state.vcpus.resize(static_cast<size_t>(saved.vcpus_size()));
  for (size_t i = 0; i < state.vcpus.size(); ++i) {
    RETURN_IF_ERROR(FromProto(saved.vcpus(static_cast<int>(i)), state.vcpus[i]));
  }
  state.vm.clock_ns = saved.vm().clock_ns();
  RETURN_IF_ERROR(Take(saved.vm().pic_master(), "pic_master", state.vm.pic_master));
  RETURN_IF_ERROR(Take(saved.vm().pic_slave(), "pic_slave", state.vm.pic_slave));
  RETURN_IF_ERROR(Take(saved.vm().ioapic(), "ioapic", state.vm.ioapic));
  state.devices = saved.devices();
  RETURN_IF_ERROR(TakeHoles(saved, state));
  return state;
}

}  // namespace hearth::vmm
