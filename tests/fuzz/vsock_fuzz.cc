// SPDX-License-Identifier: Apache-2.0
// The vsock device between a hostile guest and a host whose ends do as they like.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/devices/vsock/guest_fake.h"

using namespace hearth;
using namespace hearth::vmm;

namespace {

void SendPacket(VsockGuestFake& guest, FuzzedDataProvider& input, uint32_t last_host_port) {
  const auto op = static_cast<VsockOp>(input.ConsumeIntegralInRange<uint16_t>(0, 8));
  const std::array<uint32_t, 4> host_ports = {kFakeHostPort, kFakeHostPort + 1, last_host_port, 9};
  const uint32_t guest_port =
      input.ConsumeBool() ? 5000 : 2000 + input.ConsumeIntegralInRange<uint32_t>(0, 3);
  auto header = VsockGuestFake::Header(op, guest_port, input.PickValueInArray(host_ports));
  header.flags = input.ConsumeIntegral<uint8_t>();
  if (input.ConsumeBool()) header.buf_alloc = input.ConsumeIntegral<uint32_t>();
  if (input.ConsumeBool()) header.fwd_cnt = input.ConsumeIntegral<uint32_t>();
  if (input.ConsumeIntegral<uint8_t>() == 0) header.type = input.ConsumeIntegral<uint16_t>();
  if (input.ConsumeIntegral<uint8_t>() == 0) header.dst_cid = input.ConsumeIntegral<uint64_t>();
  if (input.ConsumeIntegral<uint8_t>() == 0) header.len = input.ConsumeIntegral<uint32_t>();
  guest.Send(header, std::string(input.ConsumeIntegral<uint16_t>(), 'd'));
}

void UseHostEnd(UniqueFd& socket, FuzzedDataProvider& input) {
  const std::string text(input.ConsumeIntegral<uint16_t>(), 'h');
  switch (input.ConsumeIntegralInRange<int>(0, 4)) {
    case 0:
      send(socket.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
    case 1:
      ReadAll(socket.get());
      break;
    case 2:
      shutdown(socket.get(), SHUT_WR);
      break;
    case 3:
      shutdown(socket.get(), SHUT_RD);
      break;
    default:
      socket.reset();
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  VsockGuestFake guest(input.ConsumeIntegralInRange<size_t>(0, 8));
  std::vector<UniqueFd> hosts;
  uint32_t last_host_port = 0;
  uint64_t next_slot = 8;
  for (int i = 0; i < kMaxHostileThings && input.remaining_bytes() != 0; ++i) {
    switch (input.ConsumeIntegralInRange<int>(0, 7)) {
      case 0:
      case 1:
        SendPacket(guest, input, last_host_port);
        break;
      case 2:
        if (const auto packet = guest.Receive(input.ConsumeBool())) {
          last_host_port = packet->header.src_port.get();
        }
        break;
      case 3: {
        auto pair = MakeSocketPair();
        (void)guest.device().ConnectVsock(5000, std::move(pair[1]));
        hosts.push_back(std::move(pair[0]));
        break;
      }
      case 4:
        if (!hosts.empty()) {
          UseHostEnd(hosts[input.ConsumeIntegralInRange<size_t>(0, hosts.size() - 1)], input);
        }
        break;
      case 5:
        guest.PostReceiveBuffer(next_slot++ % kVsockDataQueueSize);
        break;
      case 6:
        guest.RunLoop();
        break;
      default:
        DoHostileThing(guest.driver(), input);
        break;
    }
    while (!guest.accepted().empty()) {
      hosts.push_back(std::move(guest.accepted().front().socket));
      guest.accepted().pop_front();
    }
    if (guest.device().connection_count() > kVsockMaxConnections) abort();
  }
  guest.RunLoop();
  return 0;
}
