// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/bus/bus_device.h"

namespace hearth::vmm {

// Finds the device whose address range holds an access: one for ports, one for memory. Ranges are
// inserted before the first vCPU runs and never change after, so lookups need no lock; the caller
// holds the device lock around Read and Write for the devices' sake.
class Bus {
 public:
  // `device` must outlive the bus. ALREADY_EXISTS when the range overlaps another.
  absl::Status Insert(uint64_t base, uint64_t size, BusDevice* device);

  // False when no device's range holds the whole access; a read is then filled with ones, as on a
  // bus that nothing drives.
  bool Read(uint64_t address, std::span<uint8_t> data) const;
  bool Write(uint64_t address, std::span<const uint8_t> data) const;

 private:
  struct Range {
    uint64_t base;
    uint64_t size;
    BusDevice* device;
  };

  const Range* Find(uint64_t address, uint64_t size) const;

  std::vector<Range> ranges_;  // Sorted by base, disjoint.
};

}  // namespace hearth::vmm
