// SPDX-License-Identifier: Apache-2.0
// A machine's devices with their interrupts and notifications in KVM, without a guest: the test is
// the driver, through the bus.
#include "vmm/machine/device_set.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/vmm/kvm_guard.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/kvm/system.h"
#include "vmm/virtio/virtqueue_fake.h"

namespace hearth::vmm::testing {
namespace {

constexpr uint64_t kRamBytes = 1 << 20;
constexpr GuestAddress kRings(0x10000);
constexpr GuestAddress kBuffer(0x20000);
constexpr uint16_t kRingSize = 8;
constexpr uint32_t kEntropyIrq = x86_64::kFirstVirtioIrq;

class TestDevices {
 public:
  // Entropy is the first device, or a disk if there is one.
  explicit TestDevices(UniqueFd disk = {}) {
    auto system = System::Create(OpenKvm());
    REQUIRE(system.ok());
    vm_ = std::make_unique<Vm>(*system->CreateVm());
    REQUIRE(vm_->CreateInterruptController().ok());
    MachineConfig config;
    if (disk) config.disks.push_back({std::move(disk), true, ""});
    config.entropy = true;
    config.vsock = VsockConfig{3, {1024}};
    DeviceSet::Wiring wiring;
    wiring.vm = vm_.get();
    wiring.memory = &memory;
    wiring.loop = loop_.get();
    wiring.device_lock = &lock_;
    auto created = DeviceSet::Create(config, std::move(wiring));
    REQUIRE(created.ok());
    set = *std::move(created);
  }

  uint32_t Read(uint64_t offset) {
    uint32_t value = 0;
    MutexLock lock(&lock_);
    REQUIRE(set->memory_bus().Read(x86_64::kVirtioMmioBase + offset,
                                   {reinterpret_cast<uint8_t*>(&value), sizeof(value)}));
    return value;
  }
  void Write(uint64_t offset, uint32_t value) {
    MutexLock lock(&lock_);
    REQUIRE(set->memory_bus().Write(x86_64::kVirtioMmioBase + offset,
                                    {reinterpret_cast<const uint8_t*>(&value), sizeof(value)}));
  }
  void StartFirst() {
    for (const uint32_t status : {1, 3}) Write(0x70, status);
    Write(0x24, 1);
    Write(0x20, 1);  // VERSION_1.
    Write(0x70, 11);
    Write(0x38, kRingSize);
    Write(0x80, static_cast<uint32_t>(queue.descriptors().value()));
    Write(0x90, static_cast<uint32_t>(queue.driver_area().value()));
    Write(0xa0, static_cast<uint32_t>(queue.device_area().value()));
    Write(0x44, 1);
    Write(0x70, 15);
    RunLoop();
  }
  // Made available and notified of; the loop has not run since.
  void AskForEntropy() {
    const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kBuffer, 32, true}}};
    REQUIRE(queue.Add(buffers));
    Write(kVirtioMmioQueueNotify, 0);
  }
  v1::SavedDevices Save() {
    MutexLock lock(&lock_);
    auto saved = set->Save();
    REQUIRE(saved.ok());
    return *saved;
  }
  absl::Status Restore(const v1::SavedDevices& saved) {
    MutexLock lock(&lock_);
    return set->Restore(saved);
  }
  void RunLoop() {
    for (int i = 0; i < 4; ++i) REQUIRE(loop_->RunOnce(0).ok());
  }
  // The PIC, which nobody has set up, keeps an edge; the IOAPIC forgets those of masked pins.
  bool InterruptIsPending(uint32_t irq) {
    const auto state = vm_->GetState();
    REQUIRE(state.ok());
    return (state->pic_master.irr & (1u << irq)) != 0;
  }

  GuestMemory memory = *GuestMemory::CreateAnonymous(
      std::array<GuestMemory::Range, 1>{{{GuestAddress(0), kRamBytes}}});
  VirtqueueFake queue{&memory, kRings, kRingSize};

 private:
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create();
  Mutex lock_;

 public:
  std::unique_ptr<DeviceSet> set;
};

void CopyMemory(const TestDevices& from, const TestDevices& to) {
  std::memcpy(to.memory.regions()[0].mapping.data(), from.memory.regions()[0].mapping.data(),
              kRamBytes);
}

TEST_CASE("device set: quiescing works off the notifications that wait") {
  REQUIRE_KVM();
  TestDevices devices;
  devices.StartFirst();
  devices.AskForEntropy();
  CHECK_FALSE(devices.queue.TakeUsed().has_value());
  devices.set->Quiesce();
  CHECK(devices.queue.TakeUsed().has_value());
  devices.set->Quiesce();  // Nothing waits.
  devices.AskForEntropy();
  devices.RunLoop();
  CHECK(devices.queue.TakeUsed().has_value());
}

TEST_CASE("device set: in another VM the driver goes on, and its interrupt is raised again") {
  REQUIRE_KVM();
  TestDevices devices;
  devices.StartFirst();
  devices.AskForEntropy();
  devices.set->Quiesce();
  const v1::SavedDevices saved = devices.Save();
  CHECK(DeviceSet::HadEntropy(saved));

  TestDevices copy;
  CopyMemory(devices, copy);
  CHECK_FALSE(copy.InterruptIsPending(kEntropyIrq));
  const absl::Status status = copy.Restore(saved);
  INFO(status.message());
  REQUIRE(status.ok());
  // KVM's workqueue injects it; ctest's limit ends this.
  while (!copy.InterruptIsPending(kEntropyIrq)) {
  }
  CHECK(copy.Read(0x60) == 1);
  CHECK(copy.Read(0x70) == 15);
  copy.queue = VirtqueueFake(devices.queue, &copy.memory);
  CHECK(copy.queue.TakeUsed().has_value());
  copy.AskForEntropy();
  copy.RunLoop();
  CHECK(copy.queue.TakeUsed().has_value());
}

TEST_CASE("device set: a kick that came while the machine was saved is not lost") {
  REQUIRE_KVM();
  TestDevices devices;
  devices.StartFirst();
  devices.AskForEntropy();
  const v1::SavedDevices saved = devices.Save();  // Even if nobody quiesces.
  TestDevices copy;
  CopyMemory(devices, copy);
  REQUIRE(copy.Restore(saved).ok());
  copy.queue = VirtqueueFake(devices.queue, &copy.memory);
  CHECK_FALSE(
      copy.queue.TakeUsed().has_value());  // The guest's rings are the loop's, behind the filters.
  copy.RunLoop();
  CHECK(copy.queue.TakeUsed().has_value());
}

TEST_CASE("device set: the state of other devices is refused") {
  REQUIRE_KVM();
  TestDevices devices;
  v1::SavedDevices saved = devices.Save();
  saved.mutable_virtio()->RemoveLast();
  CHECK(devices.Restore(saved).code() == absl::StatusCode::kFailedPrecondition);
  saved.mutable_virtio()->DeleteSubrange(0, 1);
  CHECK_FALSE(DeviceSet::HadEntropy(saved));
}

// A disk each of whose sectors, read to the available ring, makes one more request available and
// writes its header: the read of the next sector.
UniqueFd MakeSelfFeedingDisk(uint64_t header_offset) {
  std::vector<uint8_t> content(65536 * kSectorBytes);
  for (uint32_t sector = 0; sector < 65536; ++sector) {
    uint8_t* at = content.data() + sector * kSectorBytes;
    const Le16 index(static_cast<uint16_t>(sector + 2));
    const BlockRequestHeader next{.type = 0, .reserved = 0, .sector = (sector + 1) % 65536};
    std::memcpy(at + 2, &index, sizeof(index));
    std::memcpy(at + header_offset, &next, sizeof(next));
  }
  UniqueFd disk(memfd_create("disk", MFD_CLOEXEC));
  REQUIRE(write(disk.get(), content.data(), content.size()) ==
          static_cast<ssize_t>(content.size()));
  return disk;
}

TEST_CASE("device set: a disk whose reads make requests does not keep a guest from being saved") {
  REQUIRE_KVM();
  constexpr uint64_t kHeaderOffset = 64;
  TestDevices devices(MakeSelfFeedingDisk(kHeaderOffset));
  devices.StartFirst();
  VirtqueueFake& queue = devices.queue;
  const GuestAddress header(queue.driver_area().value() + kHeaderOffset);
  const std::array<VirtqueueFake::Buffer, 3> buffers = {
      {{header, sizeof(BlockRequestHeader), false},
       {queue.driver_area(), static_cast<uint32_t>(kSectorBytes), true},
       {kBuffer, 1, true}}};
  REQUIRE(queue.Add(buffers) == 0);  // Ring entries of 0 are this chain.
  devices.memory.WriteValue(header, BlockRequestHeader{.type = 0, .reserved = 0, .sector = 0});
  devices.Write(kVirtioMmioQueueNotify, 0);
  devices.set->Quiesce();
  const v1::SavedDevices saved = devices.Save();
  CHECK_FALSE(saved.virtio(0).transport().needs_reset());
  // It went on and on, a sector each time, and would still.
  CHECK(devices.set->blocks()[0]->counters().read_bytes ==
        uint64_t{kQuiesceRounds} * kBlockTurnRequests * kSectorBytes);
  const uint32_t next_avail = saved.virtio(0).transport().queues(0).next_avail();
  const GuestAddress index(queue.driver_area().value() + 2);
  CHECK(devices.memory.ReadValue<Le16>(index)->get() == next_avail + 1);
}

}  // namespace
}  // namespace hearth::vmm::testing
