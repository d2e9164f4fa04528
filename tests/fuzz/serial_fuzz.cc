// SPDX-License-Identifier: Apache-2.0
// The serial port's registers, its input, and a reader that may be slow or gone.
#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <vector>

#include "vmm/devices/serial.h"

using namespace hearth;
using namespace hearth::vmm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::signal(SIGPIPE, SIG_IGN);
  FuzzedDataProvider input(data, size);
  std::array<int, 2> fds;
  if (pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK) != 0) abort();
  UniqueFd reader(fds[0]);
  Mutex lock;
  auto loop = *EventLoop::Create();
  auto serial = *Serial::Create(
      {UniqueFd(fds[1]), input.ConsumeIntegralInRange<uint64_t>(0, 4), [] {}, loop.get(), &lock});
  constexpr std::array<size_t, 4> kWidths = {1, 2, 4, 8};
  while (input.remaining_bytes() != 0) {
    const uint64_t port = input.ConsumeIntegralInRange<uint64_t>(0, kSerialPorts - 1);
    std::vector<uint8_t> bytes(input.PickValueInArray(kWidths));
    switch (input.ConsumeIntegralInRange<int>(0, 5)) {
      case 0:
        serial->Read(port, bytes);
        break;
      case 1:
      case 2:
        bytes = input.ConsumeBytes<uint8_t>(bytes.size());
        serial->Write(port, bytes);
        break;
      case 3:
        bytes = input.ConsumeBytes<uint8_t>(input.ConsumeIntegral<uint8_t>());
        serial->Receive(bytes);
        break;
      case 4:
        serial->Flush();
        break;
      default:
        if (input.ConsumeIntegral<uint8_t>() == 0) reader.reset();
        if (!loop->RunOnce(0).ok()) abort();
        break;
    }
  }
  return 0;
}
