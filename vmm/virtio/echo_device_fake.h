// SPDX-License-Identifier: Apache-2.0
// A device for tests of what lies below devices.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "vmm/virtio/virtio_device.h"

namespace hearth::vmm {

// Two queues; counts what it is told; echoes a chain's head as its length.
class EchoDevice : public VirtioDevice {
 public:
  std::string_view name() const override { return "echo"; }
  uint32_t device_id() const override { return 42; }
  uint64_t features() const override { return 0x5; }
  std::span<const uint16_t> queue_max_sizes() const override { return sizes_; }
  void ReadConfig(uint64_t offset, std::span<uint8_t> data) const override {
    const std::array<uint8_t, 4> config = {1, 2, 3, 4};
    CopyConfig(config, offset, data);
  }
  void Activate(VirtioContext* context) override {
    ++activations;
    context_ = context;
  }
  void Reset() override {
    ++resets;
    context_ = nullptr;
  }
  void ProcessQueue(uint16_t index) override {
    ++processed[index];
    Virtqueue& queue = context_->queue(index);
    Virtqueue::PopResult result;
    while ((result = queue.Pop(chain_)) == Virtqueue::PopResult::kChain) {
      queue.Push(chain_, chain_.head());
      if (after_push) after_push();
    }
    if (result == Virtqueue::PopResult::kBroken) {
      context_->FailDevice(queue.broken_reason());
      return;
    }
    context_->SignalUsed(index);
  }

  int activations = 0;
  int resets = 0;
  std::array<int, 2> processed{};
  std::function<void()> after_push;  // What the driver does meanwhile.

 private:
  std::array<uint16_t, 2> sizes_ = {16, 8};
  VirtioContext* context_ = nullptr;
  DescriptorChain chain_;
};

}  // namespace hearth::vmm
