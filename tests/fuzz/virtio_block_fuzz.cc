// SPDX-License-Identifier: Apache-2.0
// The MMIO transport with a block device behind it, and a hostile driver.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/devices/block.h"

using namespace hearth;
using namespace hearth::vmm;

namespace {

int MakeDisk() {
  const int fd = memfd_create("disk", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, 64 * kSectorBytes) != 0) abort();
  return fd;
}

void SendRequest(MmioDriverFake& driver, FuzzedDataProvider& input) {
  const BlockRequestHeader header{.type = input.ConsumeIntegralInRange<uint32_t>(0, 12),
                                  .reserved = 0,
                                  .sector = input.ConsumeBool()
                                                ? input.ConsumeIntegral<uint8_t>()
                                                : input.ConsumeIntegral<uint64_t>()};
  driver.memory().WriteValue(MmioDriverFake::kBuffers, header);
  const uint64_t at = MmioDriverFake::kBuffers.value() + 0x1000;
  const bool writable = input.ConsumeBool();
  const uint32_t length = input.ConsumeBool() ? 512U * input.ConsumeIntegralInRange(1, 200)
                                              : input.ConsumeIntegralInRange(1, 100000);
  const std::array<VirtqueueFake::Buffer, 3> buffers = {{{MmioDriverFake::kBuffers, 16, false},
                                                         {GuestAddress(at), length, writable},
                                                         {GuestAddress(0x200000), 1, true}}};
  driver.queue(0).Add(buffers);
  driver.Notify(0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int disk = MakeDisk();
  FuzzedDataProvider input(data, size);
  auto block = *Block::Create({UniqueFd(dup(disk)), input.ConsumeBool(), "fuzz"});
  MmioDriverFake driver(block.get());
  if (input.ConsumeBool()) driver.Start(input.ConsumeBool());
  for (int i = 0; i < kMaxHostileThings && input.remaining_bytes() != 0; ++i) {
    if (input.ConsumeBool()) {
      SendRequest(driver, input);
    } else {
      DoHostileThing(driver, input);
    }
  }
  struct stat info;
  if (fstat(disk, &info) != 0 || info.st_size != 64 * kSectorBytes) abort();  // Never grows.
  return 0;
}
