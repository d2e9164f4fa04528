// SPDX-License-Identifier: Apache-2.0
// The MMIO transport with an entropy device behind it, and a hostile driver.
#include "tests/fuzz/hostile_driver.h"
#include "vmm/devices/rng.h"

using namespace hearth::vmm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  Rng rng;
  MmioDriverFake driver(&rng);
  if (input.ConsumeBool()) driver.Start(input.ConsumeBool());
  for (int i = 0; i < kMaxHostileThings && input.remaining_bytes() != 0; ++i) {
    DoHostileThing(driver, input);
  }
  return 0;
}
