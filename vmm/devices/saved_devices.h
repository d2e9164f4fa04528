// SPDX-License-Identifier: Apache-2.0
// A machine's devices as hearth.vmm.v1.SavedDevices, and back. The devices keep and judge their
// states as plain values; here those meet the protocol.
//
// Thread: the loop's, under the machine's device lock.
#pragma once

#include <variant>
#include <vector>

#include "hearth/vmm/v1/state.pb.h"
#include "vmm/devices/block.h"
#include "vmm/devices/rng.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/vsock/vsock.h"
#include "vmm/virtio/mmio_transport.h"

namespace hearth::vmm {

// Pointers to a machine's devices; none is null.
struct SavableVirtio {
  MmioTransport* transport;
  std::variant<Block*, Rng*, Vsock*> device;
};
struct SavableDevices {
  Serial* serial;
  std::vector<SavableVirtio> virtio;  // In the order of their place on the bus.
};

// Changes nothing, so the devices may go on. INTERNAL when a device holds a request.
absl::StatusOr<v1::SavedDevices> SaveDevices(const SavableDevices& devices);

// Into devices right after their creation. Interrupts that were pending are raised, and queues in
// which chains wait are worked on. INVALID_ARGUMENT when `saved` is nonsense, FAILED_PRECONDITION
// when it is that of other devices; then they are of no use any more.
absl::Status RestoreDevices(const v1::SavedDevices& saved, const SavableDevices& devices);

}  // namespace hearth::vmm
