// SPDX-License-Identifier: Apache-2.0
// The compatibility rule (docs/snapshots.md): a state that an earlier VMM wrote is read by this
// one. testdata/ has one of each version, made by tests/vmm/state_fixture.cc and never changed.
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>

#include "vmm/snapshot/limits.h"
#include "vmm/snapshot/saved_state.h"

namespace hearth::vmm {
namespace {

std::string Fixture(uint32_t version) {
  std::ifstream file(absl::StrCat(HEARTH_SNAPSHOT_TESTDATA "/saved_machine_v", version),
                     std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// What both are without their version: whether the reader took all that there was.
std::string WithoutVersion(const std::string& bytes) {
  v1::SavedMachine saved;
  REQUIRE(saved.ParseFromString(bytes));
  saved.clear_format_version();
  return saved.SerializeAsString();
}

TEST_CASE("saved state: one of each version that is read, written long ago, is read whole") {
  for (uint32_t version = kOldestSavedMachineVersion; version <= kSavedMachineVersion; ++version) {
    CAPTURE(version);
    const std::string bytes = Fixture(version);
    REQUIRE_FALSE(bytes.empty());
    const auto state = ParseMachineState(bytes);
    INFO(state.status().message());
    REQUIRE(state.ok());
    CHECK(WithoutVersion(SerializeMachineState(*state)) == WithoutVersion(bytes));
  }
}

TEST_CASE("saved state: version 1 has two vCPUs as they were") {
  const auto state = ParseMachineState(Fixture(1));
  REQUIRE(state.ok());
  CHECK(state->memory_mib == 8);
  CHECK(state->vm.clock_ns > 0);
  CHECK_FALSE(state->holes.empty());
  REQUIRE(state->vcpus.size() == 2);
  const uint64_t code[] = {0x100000, 0x8000};  // The driver's, and what the second vCPU runs.
  for (size_t i = 0; i < 2; ++i) {
    const SavedVcpuState& saved = state->vcpus[i];
    CHECK(saved.tsc_khz == state->vcpus[0].tsc_khz);
    CHECK(saved.vcpu.mp_state.mp_state == KVM_MP_STATE_RUNNABLE);
    CHECK(saved.vcpu.regs.rip / 0x1000 == code[i] / 0x1000);
    CHECK((saved.vcpu.sregs.cr0 & 1) == 1);
    CHECK(saved.vcpu.xsave.size() >= sizeof(kvm_xsave));
    CHECK(saved.vcpu.Msr(kMsrTsc).has_value());
    CHECK(saved.vcpu.Msr(0x277).has_value());  // PAT.
    REQUIRE_FALSE(saved.cpuid.empty());
    CHECK(saved.cpuid[0].function == 0);
    uint32_t ids = 0;
    for (const kvm_cpuid_entry2& entry : saved.cpuid) {
      if (entry.function == 1) ids = entry.ebx;
    }
    CHECK(ids >> 24 == i);  // Its APIC id.
  }
  // vCPU 0 turned its local APIC on.
  CHECK(static_cast<uint8_t>(state->vcpus[0].vcpu.lapic.regs[0xf1]) == 1);
}

TEST_CASE("saved state: version 1 has every device with its driver") {
  const auto state = ParseMachineState(Fixture(1));
  REQUIRE(state.ok());
  const v1::SavedDevices& devices = state->devices;
  CHECK(devices.serial().scratch() == 0x5a);
  const uint32_t ids[] = {2, 2, 4, 19};
  REQUIRE(devices.virtio_size() == 4);
  for (int i = 0; i < 4; ++i) {
    const v1::SavedVirtio& device = devices.virtio(i);
    CHECK(device.device_id() == ids[i]);
    CHECK(device.transport().status() == 15);  // The driver runs.
    CHECK(device.transport().driver_features() == uint64_t{1} << 32);
    REQUIRE(device.transport().queues_size() >= (i == 3 ? 3 : 1));
    CHECK(device.transport().queues(0).size() == 8);
    CHECK(device.transport().queues(0).ready());
    CHECK(device.transport().queues(0).descriptors() == 0x200000);
  }
  CHECK(devices.virtio(0).block().read_only());
  CHECK_FALSE(devices.virtio(1).block().read_only());
  CHECK(devices.virtio(1).block().serial() == "hostile");
  CHECK(devices.virtio(1).block().sectors() == 128);
  CHECK(devices.virtio(3).vsock().guest_cid() == 3);
  CHECK(devices.virtio(3).vsock().host_ports(0) == 1024);
  CHECK(devices.virtio(3).transport().queues(1).next_avail() == 1);
  CHECK(devices.virtio(3).transport().queues(1).next_used() == 1);
}

}  // namespace
}  // namespace hearth::vmm
