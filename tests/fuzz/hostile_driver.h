// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {

// What a hostile driver may do to any device, legal steps among it so that the fuzzer gets deep:
// does one thing that `input` chooses. Never looks at what the device answers.
void DoHostileThing(MmioDriverFake& driver, FuzzedDataProvider& input);

// At most so many things in one input.
inline constexpr int kMaxHostileThings = 200;

}  // namespace hearth::vmm
