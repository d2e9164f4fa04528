// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "vmm/bus/bus_device.h"

namespace hearth::vmm {

// As much of a PC's keyboard controller as a kernel needs to reset the machine: the status
// register (0x64) always says "ready", and the command 0xfe pulses the reset line.
class I8042 : public BusDevice {
 public:
  explicit I8042(std::function<void()> reset) : reset_(std::move(reset)) {}

  void Read(uint64_t, std::span<uint8_t> data) override {
    for (uint8_t& byte : data) byte = 0;
  }
  void Write(uint64_t offset, std::span<const uint8_t> data) override {
    if (offset == kCommandOffset && data[0] == kPulseReset) reset_();
  }

 private:
  static constexpr uint64_t kCommandOffset = 4;
  static constexpr uint8_t kPulseReset = 0xfe;

  std::function<void()> reset_;
};

}  // namespace hearth::vmm
