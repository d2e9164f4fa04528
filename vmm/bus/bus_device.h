// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace hearth::vmm {

// A device's registers as the guest sees them. `offset` is relative to the device's range and
// offset + data.size() lies inside it (the bus checks); data.size() is 1, 2, 4 or 8. All values
// come from a hostile guest: an access that makes no sense is ignored or reads as zeros, never an
// abort. Called with the machine's device lock held, from any vCPU thread.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  virtual void Read(uint64_t offset, std::span<uint8_t> data) = 0;
  virtual void Write(uint64_t offset, std::span<const uint8_t> data) = 0;
};

// Raises (or pulses) a device's interrupt; wired by the machine to an irqfd.
using InterruptLine = std::function<void()>;

}  // namespace hearth::vmm
