// SPDX-License-Identifier: Apache-2.0
// A machine's devices without the machine, for tests and fuzzers of their saved state: a serial
// port, two disks, entropy, vsock. Each virtio device has a driver and a memory of its own.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "vmm/devices/saved_devices.h"
#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {

class DevicesFake {
 public:
  struct Options {
    uint64_t sectors = 64;
    bool read_only = false;  // Of the first disk; the second one is writable.
    std::string serial = "root";
    uint32_t guest_cid = 3;
    std::vector<uint32_t> host_ports = {1024};
  };
  static constexpr size_t kFirstDisk = 0;
  static constexpr size_t kSecondDisk = 1;
  static constexpr size_t kEntropy = 2;
  static constexpr size_t kVsock = 3;
  static constexpr size_t kCount = 4;

  explicit DevicesFake(const Options& options);
  DevicesFake() : DevicesFake(Options()) {}
  // Fresh devices over copies of the memories of `saved`, with its drivers: to be restored.
  DevicesFake(const Options& options, const DevicesFake& saved);
  // The same with the memories themselves; `saved` must not be used again.
  DevicesFake(const Options& options, DevicesFake&& saved);

  SavableDevices views();
  v1::SavedDevices Save() { return *SaveDevices(views()); }
  absl::Status Restore(const v1::SavedDevices& saved) { return RestoreDevices(saved, views()); }

  Serial& serial() { return *serial_; }
  Vsock& vsock() { return *vsock_; }
  MmioDriverFake& driver(size_t index) { return *drivers_[index]; }
  int serial_interrupts() const { return serial_interrupts_; }
  void RunLoop();

 private:
  void CreateDevices(const Options& options);

  Mutex lock_;
  std::unique_ptr<EventLoop> loop_;
  int serial_interrupts_ = 0;
  std::unique_ptr<Serial> serial_;
  std::array<std::unique_ptr<Block>, 2> disks_;
  Rng rng_;
  std::unique_ptr<Vsock> vsock_;
  std::array<VirtioDevice*, kCount> devices_{};
  std::array<std::unique_ptr<MmioDriverFake>, kCount> drivers_;
};

}  // namespace hearth::vmm
