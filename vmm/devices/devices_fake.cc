// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/devices_fake.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace hearth::vmm {
namespace {

UniqueFd MakeDisk(uint64_t sectors) {
  UniqueFd fd(memfd_create("disk", MFD_CLOEXEC));
  if (ftruncate(fd.get(), static_cast<off_t>(sectors * kSectorBytes)) != 0) abort();
  return fd;
}

}  // namespace

void DevicesFake::CreateDevices(const Options& options) {
  loop_ = *EventLoop::Create();
  serial_ = *Serial::Create({UniqueFd(), 0, [this] { ++serial_interrupts_; }, loop_.get(), &lock_});
  disks_[0] = *Block::Create({MakeDisk(options.sectors), options.read_only, options.serial});
  disks_[1] = *Block::Create({MakeDisk(8), false, "scratch"});
  Vsock::Options vsock;
  vsock.guest_cid = options.guest_cid;
  vsock.host_ports = options.host_ports;
  vsock.accept = [](uint32_t, uint32_t, const UniqueFd&) { return absl::OkStatus(); };
  vsock.loop = loop_.get();
  vsock.device_lock = &lock_;
  vsock_ = *Vsock::Create(std::move(vsock));
  devices_ = {disks_[0].get(), disks_[1].get(), &rng_, vsock_.get()};
}

DevicesFake::DevicesFake(const Options& options) {
  CreateDevices(options);
  for (size_t i = 0; i < kCount; ++i) drivers_[i] = std::make_unique<MmioDriverFake>(devices_[i]);
}

DevicesFake::DevicesFake(const Options& options, const DevicesFake& saved) {
  CreateDevices(options);
  for (size_t i = 0; i < kCount; ++i) {
    drivers_[i] = std::make_unique<MmioDriverFake>(devices_[i], *saved.drivers_[i]);
  }
}

DevicesFake::DevicesFake(const Options& options, DevicesFake&& saved) {
  CreateDevices(options);
  for (size_t i = 0; i < kCount; ++i) {
    drivers_[i] = std::make_unique<MmioDriverFake>(devices_[i], std::move(*saved.drivers_[i]));
  }
}

SavableDevices DevicesFake::views() {
  SavableDevices views{serial_.get(), {}};
  views.virtio.push_back({&drivers_[kFirstDisk]->transport(), disks_[0].get()});
  views.virtio.push_back({&drivers_[kSecondDisk]->transport(), disks_[1].get()});
  views.virtio.push_back({&drivers_[kEntropy]->transport(), &rng_});
  views.virtio.push_back({&drivers_[kVsock]->transport(), vsock_.get()});
  return views;
}

void DevicesFake::RunLoop() {
  for (int i = 0; i < 4; ++i) {
    if (!loop_->RunOnce(0).ok()) abort();
    for (const auto& driver : drivers_) driver->RunKicks();
  }
}

}  // namespace hearth::vmm
