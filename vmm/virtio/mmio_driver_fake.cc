// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/mmio_driver_fake.h"

#include <array>
#include <cstring>

namespace hearth::vmm {
namespace {

GuestMemory MakeMemory() {
  const std::array<GuestMemory::Range, 1> ranges = {{{GuestAddress(0), MmioDriverFake::kRamBytes}}};
  return *GuestMemory::CreateAnonymous(ranges);
}

}  // namespace

void MmioDriverFake::CreateTransport(VirtioDevice* device) {
  MmioTransport::Wiring wiring;
  wiring.memory = &memory_;
  wiring.errors = &errors_;
  wiring.interrupt = [this] { ++interrupts_; };
  wiring.kick = [this](uint16_t index) { kicks_.push_back(index); };
  transport_ = *MmioTransport::Create(device, std::move(wiring));
}

MmioDriverFake::MmioDriverFake(VirtioDevice* device, const MmioDriverFake& saved)
    : memory_(MakeMemory()) {
  const MappedRegion& from = saved.memory_.regions()[0].mapping;
  memory_.Write(GuestAddress(0), {from.data(), from.size_bytes()});
  CreateTransport(device);
  for (const VirtqueueFake& queue : saved.queues_) queues_.emplace_back(queue, &memory_);
}

MmioDriverFake::MmioDriverFake(VirtioDevice* device, MmioDriverFake&& saved)
    : memory_(std::move(saved.memory_)) {
  CreateTransport(device);
  for (const VirtqueueFake& queue : saved.queues_) queues_.emplace_back(queue, &memory_);
}

MmioDriverFake::MmioDriverFake(VirtioDevice* device) : memory_(MakeMemory()) {
  CreateTransport(device);
  uint64_t base = kRings.value();
  for (const uint16_t size : device->queue_max_sizes()) {
    queues_.emplace_back(&memory_, GuestAddress(base), size);
    base += VirtqueueFake::RingBytes();
  }
}

uint32_t MmioDriverFake::Read(uint64_t offset) {
  std::array<uint8_t, 4> bytes{};
  transport_->Read(offset, bytes);
  uint32_t value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

void MmioDriverFake::Write(uint64_t offset, uint32_t value) {
  std::array<uint8_t, 4> bytes;
  std::memcpy(bytes.data(), &value, sizeof(value));
  transport_->Write(offset, bytes);
}

void MmioDriverFake::NegotiateFeatures(bool event_idx) {
  Write(0x70, 0);
  Write(0x70, kStatusAcknowledge);
  Write(0x70, kStatusAcknowledge | kStatusDriver);
  for (uint32_t half = 0; half < 2; ++half) {
    Write(0x14, half);
    uint32_t features = Read(0x10);
    if (half == 0 && !event_idx) features &= ~static_cast<uint32_t>(kFeatureEventIdx);
    Write(0x24, half);
    Write(0x20, features);
  }
  Write(0x70, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
}

void MmioDriverFake::SetUpQueue(uint16_t index) {
  const VirtqueueFake& queue = queues_[index];
  Write(0x30, index);
  Write(0x38, queue.size());
  const std::array<std::pair<uint64_t, GuestAddress>, 3> areas = {
      {{0x80, queue.descriptors()}, {0x90, queue.driver_area()}, {0xa0, queue.device_area()}}};
  for (const auto& [offset, address] : areas) {
    Write(offset, static_cast<uint32_t>(address.value()));
    Write(offset + 4, static_cast<uint32_t>(address.value() >> 32));
  }
  Write(0x44, 1);
}

void MmioDriverFake::Start(bool event_idx) {
  NegotiateFeatures(event_idx);
  for (size_t i = 0; i < queues_.size(); ++i) SetUpQueue(static_cast<uint16_t>(i));
  Write(0x70, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  RunKicks();
}

void MmioDriverFake::Notify(uint16_t index) {
  transport_->NotifyQueue(index);
  RunKicks();
}

void MmioDriverFake::RunKicks() {
  while (!kicks_.empty()) {
    const uint16_t index = kicks_.front();
    kicks_.pop_front();
    transport_->NotifyQueue(index);
  }
}

}  // namespace hearth::vmm
