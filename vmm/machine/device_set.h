// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/bus/bus.h"
#include "vmm/devices/block.h"
#include "vmm/devices/rng.h"
#include "vmm/devices/saved_devices.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/vsock/vsock.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/i8042.h"
#include "vmm/machine/machine_config.h"
#include "vmm/virtio/guest_errors.h"
#include "vmm/virtio/mmio_transport.h"

namespace hearth::vmm {

// How often Quiesce() works on a queue that asks for more. What a driver can have in a queue, 128
// descriptors of 64 KiB, is one turn. But a guest can let the reads of a disk write further
// requests into the queue, for ever; those that are left are worked on later, here and in a copy.
inline constexpr int kQuiesceRounds = 16;

// A machine's devices, their place on its buses and their interrupts and notifications in KVM.
// Created and destroyed on the loop's thread; the accessors' users hold the device lock.
class DeviceSet {
 public:
  struct Wiring {
    Vm* vm = nullptr;  // All outlive the set.
    const GuestMemory* memory = nullptr;
    EventLoop* loop = nullptr;
    Mutex* device_lock = nullptr;
    std::function<void()> guest_reset;  // The guest asked for a reset. On a vCPU's thread.
    Vsock::AcceptCallback accept;
    GuestErrors::Log log;
  };

  // Takes the devices' descriptors out of `config`.
  static absl::StatusOr<std::unique_ptr<DeviceSet>> Create(MachineConfig& config, Wiring wiring);
  ~DeviceSet();
  DeviceSet(const DeviceSet&) = delete;
  DeviceSet& operator=(const DeviceSet&) = delete;

  const Bus& ports() const { return ports_; }
  const Bus& memory_bus() const { return memory_bus_; }
  // The virtio_mmio.device= parameters, which tell a Linux without ACPI where the devices are.
  const std::string& kernel_parameters() const { return kernel_parameters_; }

  // For a snapshot, on the loop's thread with all vCPUs paused. Quiesce() first: it takes the
  // device lock itself, works off the notifications that wait in the ioeventfds (they are part of
  // no state) until no device holds a request, and writes the console's output. Then Save(), with
  // the lock, and the copy of guest memory, all before the loop runs again: devices write to memory
  // only from the loop. Neither disturbs the machine, which may go on with all its connections.
  void Quiesce() ABSL_LOCKS_EXCLUDED(wiring_.device_lock);
  absl::StatusOr<v1::SavedDevices> Save() const;

  // Once, right after Create() with the same kinds of devices, on the loop's thread with the lock,
  // before any vCPU runs, but after guest memory and the interrupt controller were restored: it
  // raises pending interrupts again and works on queues. INVALID_ARGUMENT when `saved` is nonsense,
  // FAILED_PRECONDITION when it does not fit the devices.
  absl::Status Restore(const v1::SavedDevices& saved);
  // Whether the saved machine had an entropy device: MachineConfig::entropy for Create().
  static bool HadEntropy(const v1::SavedDevices& saved);

  Vsock* vsock() { return vsock_.get(); }
  const std::vector<std::unique_ptr<Block>>& blocks() const { return blocks_; }
  const Serial& serial() const { return *serial_; }
  const GuestErrors& errors() const { return errors_; }
  void FlushConsole() { serial_->Flush(); }

 private:
  // A transport with the eventfd of its interrupt and one for each queue's notification.
  struct Slot {
    UniqueFd interrupt;
    std::vector<UniqueFd> notifications;
    std::unique_ptr<MmioTransport> transport;
    std::variant<Block*, Rng*, Vsock*> device;
  };

  explicit DeviceSet(Wiring wiring)
      : wiring_(std::move(wiring)), errors_(wiring_.log), i8042_(wiring_.guest_reset) {}
  absl::Status AddLegacyDevices(MachineConfig& config);
  absl::Status AddVirtioDevice(std::variant<Block*, Rng*, Vsock*> device);
  SavableDevices Views() const;
  absl::Status WatchNotification(Slot* slot, uint16_t queue, uint64_t base);

  Wiring wiring_;
  GuestErrors errors_;
  Bus ports_;
  Bus memory_bus_;
  I8042 i8042_;
  UniqueFd serial_interrupt_;
  std::unique_ptr<Serial> serial_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<Rng> rng_;
  std::unique_ptr<Vsock> vsock_;
  std::vector<std::unique_ptr<Slot>> slots_;  // Before the devices go.
  std::string kernel_parameters_;
};

}  // namespace hearth::vmm
