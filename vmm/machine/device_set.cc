// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/device_set.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "vmm/arch/x86_64/layout.h"

namespace hearth::vmm {
namespace {

namespace arch = x86_64;

absl::StatusOr<UniqueFd> MakeEventfd() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return ErrnoStatus("eventfd");
  return fd;
}

// A full counter (EAGAIN) means that a signal is pending already.
void Signal(int fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
}

// Whether it was signalled.
bool Consume(int fd) {
  uint64_t count;
  return read(fd, &count, sizeof(count)) == sizeof(count);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceSet>> DeviceSet::Create(MachineConfig& config, Wiring wiring) {
  std::unique_ptr<DeviceSet> set(new DeviceSet(std::move(wiring)));
  RETURN_IF_ERROR(set->AddLegacyDevices(config));
  for (DiskConfig& disk : config.disks) {
    ASSIGN_OR_RETURN(auto block,
                     Block::Create({std::move(disk.file), disk.read_only, std::move(disk.serial)}));
    set->blocks_.push_back(std::move(block));
    RETURN_IF_ERROR(set->AddVirtioDevice(set->blocks_.back().get()));
  }
  if (config.entropy) {
    set->rng_ = std::make_unique<Rng>();
    RETURN_IF_ERROR(set->AddVirtioDevice(set->rng_.get()));
  }
  if (config.vsock.has_value()) {
    ASSIGN_OR_RETURN(set->vsock_, Vsock::Create({config.vsock->guest_cid, config.vsock->host_ports,
                                                 set->wiring_.accept, set->wiring_.loop,
                                                 set->wiring_.device_lock}));
    RETURN_IF_ERROR(set->AddVirtioDevice(set->vsock_.get()));
  }
  return set;
}

DeviceSet::~DeviceSet() {
  for (const auto& slot : slots_) {
    for (const UniqueFd& fd : slot->notifications) wiring_.loop->Remove(fd.get());
  }
}

absl::Status DeviceSet::AddLegacyDevices(MachineConfig& config) {
  ASSIGN_OR_RETURN(serial_interrupt_, MakeEventfd());
  RETURN_IF_ERROR(wiring_.vm->AddIrqfd(serial_interrupt_.get(), arch::kSerialIrq));
  const int interrupt = serial_interrupt_.get();
  ASSIGN_OR_RETURN(
      serial_,
      Serial::Create({std::move(config.console), config.console_bytes_per_second,
                      [interrupt] { Signal(interrupt); }, wiring_.loop, wiring_.device_lock}));
  RETURN_IF_ERROR(ports_.Insert(arch::kSerialPort, arch::kSerialPortCount, serial_.get()));
  return ports_.Insert(arch::kI8042Port, arch::kI8042PortCount, &i8042_);
}

absl::Status DeviceSet::AddVirtioDevice(std::variant<Block*, Rng*, Vsock*> device) {
  const uint32_t index = static_cast<uint32_t>(slots_.size());
  const uint64_t base = arch::kVirtioMmioBase + index * arch::kVirtioMmioStride;
  const uint32_t irq = arch::kFirstVirtioIrq + index;

  auto slot = std::make_unique<Slot>();
  ASSIGN_OR_RETURN(slot->interrupt, MakeEventfd());
  RETURN_IF_ERROR(wiring_.vm->AddIrqfd(slot->interrupt.get(), irq));
  MmioTransport::Wiring wiring;
  wiring.memory = wiring_.memory;
  wiring.errors = &errors_;
  wiring.interrupt = [fd = slot->interrupt.get()] { Signal(fd); };
  wiring.kick = [slot = slot.get()](uint16_t queue) { Signal(slot->notifications[queue].get()); };
  VirtioDevice* virtio = std::visit([](auto* any) -> VirtioDevice* { return any; }, device);
  ASSIGN_OR_RETURN(slot->transport, MmioTransport::Create(virtio, std::move(wiring)));
  slot->device = device;
  for (uint16_t queue = 0; queue < slot->transport->queue_count(); ++queue) {
    RETURN_IF_ERROR(WatchNotification(slot.get(), queue, base));
  }
  RETURN_IF_ERROR(memory_bus_.Insert(base, kVirtioMmioBytes, slot->transport.get()));
  absl::StrAppendFormat(&kernel_parameters_, " virtio_mmio.device=4K@0x%x:%d", base, irq);
  slots_.push_back(std::move(slot));
  return absl::OkStatus();
}

absl::Status DeviceSet::WatchNotification(Slot* slot, uint16_t queue, uint64_t base) {
  ASSIGN_OR_RETURN(UniqueFd notification, MakeEventfd());
  const int fd = notification.get();
  RETURN_IF_ERROR(wiring_.vm->AddMmioEventfd(fd, base + kVirtioMmioQueueNotify, queue));
  RETURN_IF_ERROR(wiring_.loop->Add(fd, EPOLLIN,
                                    [this, transport = slot->transport.get(), fd, queue](uint32_t) {
                                      Consume(fd);
                                      MutexLock lock(wiring_.device_lock);
                                      transport->NotifyQueue(queue);
                                    }));
  slot->notifications.push_back(std::move(notification));
  return absl::OkStatus();
}

void DeviceSet::Quiesce() {
  // Work on a queue may ask for more of it, by the same eventfds.
  bool signalled = true;
  for (int round = 0; signalled && round < kQuiesceRounds; ++round) {
    signalled = false;
    for (const auto& slot : slots_) {
      for (uint16_t queue = 0; queue < slot->notifications.size(); ++queue) {
        if (!Consume(slot->notifications[queue].get())) continue;
        signalled = true;
        MutexLock lock(wiring_.device_lock);
        slot->transport->NotifyQueue(queue);
      }
    }
  }
  MutexLock lock(wiring_.device_lock);
  serial_->Flush();
}

SavableDevices DeviceSet::Views() const {
  SavableDevices views{serial_.get(), {}};
  for (const auto& slot : slots_) views.virtio.push_back({slot->transport.get(), slot->device});
  return views;
}

absl::StatusOr<v1::SavedDevices> DeviceSet::Save() const { return SaveDevices(Views()); }

absl::Status DeviceSet::Restore(const v1::SavedDevices& saved) {
  return RestoreDevices(saved, Views());
}

bool DeviceSet::HadEntropy(const v1::SavedDevices& saved) {
  const uint32_t entropy_id = Rng().device_id();
  return std::any_of(saved.virtio().begin(), saved.virtio().end(),
                     [&](const auto& virtio) { return virtio.device_id() == entropy_id; });
}

}  // namespace hearth::vmm
