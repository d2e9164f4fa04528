// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/hostile_driver.h"

#include <array>
#include <vector>

namespace hearth::vmm {
namespace {

// Addresses worth trying: the rings, the buffers, both ends of RAM, the hole, the end of the world.
uint64_t AnyAddress(FuzzedDataProvider& input) {
  constexpr std::array<uint64_t, 7> kBases = {0,
                                              MmioDriverFake::kRings.value(),
                                              MmioDriverFake::kBuffers.value(),
                                              MmioDriverFake::kRamBytes - 16,
                                              0xd0000000,
                                              0x100000000,
                                              UINT64_MAX - 16};
  return input.PickValueInArray(kBases) + input.ConsumeIntegral<uint16_t>();
}

uint16_t AnyQueue(MmioDriverFake& driver, FuzzedDataProvider& input) {
  return input.ConsumeIntegralInRange<uint16_t>(
      0, static_cast<uint16_t>(driver.transport().queue_count() - 1));
}

void AddLegalChain(MmioDriverFake& driver, FuzzedDataProvider& input) {
  std::vector<VirtqueueFake::Buffer> buffers;
  const size_t count = input.ConsumeIntegralInRange<size_t>(1, 6);
  bool writable = false;
  for (size_t i = 0; i < count; ++i) {
    writable |= input.ConsumeBool();
    const uint64_t at =
        MmioDriverFake::kBuffers.value() + input.ConsumeIntegralInRange<uint32_t>(0, 1 << 20);
    buffers.push_back(
        {GuestAddress(at), input.ConsumeIntegralInRange<uint32_t>(1, 70000), writable});
  }
  driver.queue(AnyQueue(driver, input)).Add(buffers);
}

void WriteMemory(MmioDriverFake& driver, FuzzedDataProvider& input) {
  const GuestAddress at(AnyAddress(input));
  const auto bytes = input.ConsumeBytes<uint8_t>(input.ConsumeIntegralInRange<size_t>(1, 64));
  driver.memory().Write(at, bytes);
}

void AccessRegister(MmioDriverFake& driver, FuzzedDataProvider& input) {
  constexpr std::array<size_t, 4> kWidths = {1, 2, 4, 8};
  const size_t width = input.PickValueInArray(kWidths);
  const uint64_t offset = input.ConsumeIntegralInRange<uint64_t>(0, kVirtioMmioBytes - width);
  if (input.ConsumeBool()) {
    std::vector<uint8_t> data(width);
    driver.transport().Read(offset, data);
  } else {
    std::vector<uint8_t> data = input.ConsumeBytes<uint8_t>(width);
    data.resize(width);
    driver.transport().Write(offset, data);
  }
}

}  // namespace

void DoHostileThing(MmioDriverFake& driver, FuzzedDataProvider& input) {
  switch (input.ConsumeIntegralInRange<int>(0, 11)) {
    case 0:
      driver.Start(input.ConsumeBool());
      break;
    case 1:
      AccessRegister(driver, input);
      break;
    case 2:
      driver.Write(4 * input.ConsumeIntegralInRange<uint64_t>(0, 0x3f),
                   input.ConsumeIntegral<uint32_t>());
      break;
    case 3:
      driver.Write(0x70, input.ConsumeIntegral<uint8_t>());
      break;
    case 4:
      driver.SetUpQueue(AnyQueue(driver, input));
      break;
    case 5:
      WriteMemory(driver, input);
      break;
    case 6:
      driver.queue(AnyQueue(driver, input))
          .SetDescriptor(input.ConsumeIntegral<uint8_t>(), AnyAddress(input),
                         input.ConsumeIntegral<uint32_t>(), input.ConsumeIntegral<uint8_t>(),
                         input.ConsumeIntegral<uint8_t>());
      break;
    case 7:
      driver.queue(AnyQueue(driver, input)).MakeAvailable(input.ConsumeIntegral<uint8_t>());
      break;
    case 8:
      driver.queue(AnyQueue(driver, input)).SetAvailIndex(input.ConsumeIntegral<uint16_t>());
      break;
    case 9:
      driver.queue(AnyQueue(driver, input)).SetUsedEvent(input.ConsumeIntegral<uint16_t>());
      break;
    case 10:
      AddLegalChain(driver, input);
      break;
    default:
      driver.Notify(input.ConsumeIntegralInRange<uint16_t>(0, 4));
      break;
  }
  for (uint16_t i = 0; i < driver.transport().queue_count(); ++i) {
    for (int taken = 0; taken < 4 && driver.queue(i).TakeUsed(); ++taken) {
    }
  }
}

}  // namespace hearth::vmm
