// SPDX-License-Identifier: Apache-2.0
// virtio-rng (VIRTIO 1.2, 5.4): the host kernel's random bytes.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/virtio/virtio_device.h"

namespace hearth::vmm {

inline constexpr uint16_t kRngQueueSize = 16;
// A longer request gets this much; the driver asks again.
inline constexpr size_t kRngMaxRequestBytes = 4096;

class Rng : public VirtioDevice {
 public:
  std::string_view name() const override { return "rng"; }
  uint32_t device_id() const override { return 4; }
  uint64_t features() const override { return 0; }
  std::span<const uint16_t> queue_max_sizes() const override;
  void ReadConfig(uint64_t offset, std::span<uint8_t> data) const override;
  void Activate(VirtioContext* context) override { context_ = context; }
  void Reset() override { context_ = nullptr; }
  void ProcessQueue(uint16_t index) override;

 private:
  VirtioContext* context_ = nullptr;
  DescriptorChain chain_;
};

}  // namespace hearth::vmm
