// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/vsock/vsock.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "vmm/devices/vsock/guest_fake.h"

namespace hearth::vmm {
namespace {

using Guest = VsockGuestFake;

std::string Text(const FakePacket& packet) { return {packet.data.begin(), packet.data.end()}; }

TEST_CASE("vsock: the configuration space tells the guest its CID") {
  Guest guest;
  CHECK(guest.driver().Read(0x100) == kFakeCid);
  CHECK(guest.driver().Read(0x104) == 0);
}

TEST_CASE("vsock: a guest connects to a declared port and bytes go both ways") {
  Guest guest;
  auto host = guest.Connect(2000);
  CHECK(host.host_port == kFakeHostPort);
  CHECK(host.guest_port == 2000);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "ready");
  CHECK(ReadAll(host.socket.get()) == "ready");
  REQUIRE(write(host.socket.get(), "hello", 5) == 5);
  const auto packet = guest.Receive();
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kData);
  CHECK(packet->header.src_cid.get() == 2);
  CHECK(packet->header.dst_cid.get() == kFakeCid);
  CHECK(packet->header.src_port.get() == kFakeHostPort);
  CHECK(packet->header.dst_port.get() == 2000);
  CHECK(packet->header.buf_alloc.get() == kVsockBufferBytes);
  CHECK(packet->header.fwd_cnt.get() == 5);
  CHECK(Text(*packet) == "hello");
  CHECK_FALSE(guest.Receive().has_value());
  CHECK(guest.device().counters().rx_bytes == 5);
  CHECK(guest.device().counters().tx_bytes == 5);
}

TEST_CASE("vsock: a connect to an undeclared port is refused") {
  Guest guest;
  guest.Send(Guest::Header(VsockOp::kRequest, 2000, 1999));
  const auto packet = guest.Receive();
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kReset);
  CHECK(packet->header.src_port.get() == 1999);
  CHECK(packet->header.dst_port.get() == 2000);
  CHECK(guest.accepted().empty());
  CHECK(guest.device().connection_count() == 0);
  CHECK(guest.device().counters().connections_refused == 1);
}

TEST_CASE("vsock: a connect that the host's side refuses gets an RST") {
  Guest guest;
  guest.refuse_accepts = true;
  guest.Send(Guest::Header(VsockOp::kRequest, 2000));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: the host connects to a port of the guest") {
  Guest guest;
  auto host = guest.AcceptFromHost();
  REQUIRE(write(host.socket.get(), "ping", 4) == 4);
  CHECK(Text(*guest.Receive()) == "ping");
  guest.Send(Guest::Header(VsockOp::kData, 5000, host.host_port), "pong");
  CHECK(ReadAll(host.socket.get()) == "pong");
}

TEST_CASE("vsock: a refused connect closes the host's end") {
  Guest guest;
  auto pair = MakeSocketPair();
  REQUIRE(guest.device().ConnectVsock(5000, std::move(pair[1])).ok());
  const auto request = guest.Receive();
  guest.Send(Guest::Header(VsockOp::kReset, 5000, request->header.src_port.get()));
  bool ended = false;
  CHECK(ReadAll(pair[0].get(), &ended).empty());
  CHECK(ended);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: a host that gives up connecting tells the guest") {
  Guest guest;
  auto pair = MakeSocketPair();
  REQUIRE(guest.device().ConnectVsock(5000, std::move(pair[1])).ok());
  REQUIRE(guest.Receive()->op() == VsockOp::kRequest);
  pair[0].reset();
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: only stream sockets are connected") {
  Guest guest;
  std::array<int, 2> fds;
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds.data()) == 0);
  UniqueFd other(fds[1]);
  CHECK_FALSE(guest.device().ConnectVsock(5000, UniqueFd(fds[0])).ok());
  REQUIRE(pipe(fds.data()) == 0);
  UniqueFd writer(fds[1]);
  CHECK_FALSE(guest.device().ConnectVsock(5000, UniqueFd(fds[0])).ok());
}

TEST_CASE("vsock: host ports and CID are checked at creation") {
  auto loop = *EventLoop::Create();
  Mutex lock;
  CHECK_FALSE(Vsock::Create({2, {}, {}, loop.get(), &lock}).ok());
  CHECK_FALSE(Vsock::Create({UINT32_MAX, {}, {}, loop.get(), &lock}).ok());
  CHECK_FALSE(Vsock::Create({3, std::vector<uint32_t>(17, 1), {}, loop.get(), &lock}).ok());
  CHECK_FALSE(Vsock::Create({3, {UINT32_MAX}, {}, loop.get(), &lock}).ok());
}

TEST_CASE("vsock: a packet of an unknown connection gets an RST, an RST gets nothing") {
  Guest guest;
  for (const VsockOp op : {VsockOp::kData, VsockOp::kResponse, VsockOp::kShutdown,
                           VsockOp::kCreditUpdate, VsockOp::kCreditRequest}) {
    guest.Send(Guest::Header(op, 77));
    const auto packet = guest.Receive();
    REQUIRE(packet.has_value());
    CHECK(packet->op() == VsockOp::kReset);
    CHECK(packet->header.dst_port.get() == 77);
  }
  guest.Send(Guest::Header(VsockOp::kReset, 77));
  CHECK_FALSE(guest.Receive().has_value());
}

TEST_CASE("vsock: packets of another type, CID or kind do no harm") {
  Guest guest;
  auto header = Guest::Header(VsockOp::kData, 77);
  header.type = 2;
  guest.Send(header);
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  header = Guest::Header(VsockOp::kRequest, 77);
  header.src_cid = 4;
  guest.Send(header);
  header = Guest::Header(VsockOp::kRequest, 77);
  header.dst_cid = 9;
  guest.Send(header);
  CHECK_FALSE(guest.Receive().has_value());
  auto host = guest.Connect(78);
  guest.Send(Guest::Header(static_cast<VsockOp>(99), 78));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  bool ended = false;
  ReadAll(host.socket.get(), &ended);
  CHECK(ended);
  CHECK(guest.driver().guest_errors() == 2);
}

TEST_CASE("vsock: a length beyond the packet is refused, bytes beyond the length are ignored") {
  Guest guest;
  auto host = guest.Connect(2000);
  auto header = Guest::Header(VsockOp::kData, 2000);
  header.len = 1;
  guest.Send(header);
  CHECK(guest.driver().guest_errors() == 1);
  CHECK(ReadAll(host.socket.get()).empty());
}

TEST_CASE("vsock: a second request on an open connection resets it") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Guest::Header(VsockOp::kRequest, 2000));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: a response nobody asked for resets the connection") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Guest::Header(VsockOp::kResponse, 2000));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
}

TEST_CASE("vsock: data before the response resets the connection") {
  Guest guest;
  auto pair = MakeSocketPair();
  REQUIRE(guest.device().ConnectVsock(5000, std::move(pair[1])).ok());
  const uint32_t host_port = guest.Receive()->header.src_port.get();
  guest.Send(Guest::Header(VsockOp::kData, 5000, host_port), "early");
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: at the connection limit connects are refused in both directions") {
  Guest guest;
  std::vector<Guest::Accepted> hosts;
  for (uint32_t i = 0; i < kVsockMaxConnections; ++i) hosts.push_back(guest.Connect(10000 + i));
  guest.Send(Guest::Header(VsockOp::kRequest, 9999));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  auto pair = MakeSocketPair();
  CHECK(guest.device().ConnectVsock(5000, std::move(pair[1])).code() ==
        absl::StatusCode::kResourceExhausted);
  CHECK(guest.device().connection_count() == kVsockMaxConnections);
  guest.Send(Guest::Header(VsockOp::kReset, 10000));
  auto second = MakeSocketPair();
  CHECK(guest.device().ConnectVsock(5000, std::move(second[1])).ok());
}

TEST_CASE("vsock: a flood of connects is let through at a bounded rate") {
  Guest guest;
  size_t accepted = 0;
  for (uint32_t i = 0; i < 4 * kVsockConnectBurst; ++i) {
    guest.Send(Guest::Header(VsockOp::kRequest, 10000 + i));
    guest.Receive();
    guest.Send(Guest::Header(VsockOp::kReset, 10000 + i));
    accepted += guest.accepted().size();
    guest.accepted().clear();
  }
  CHECK(accepted == kVsockConnectBurst);
  CHECK(guest.device().connection_count() == 0);
  fake_now_ns += 1'000'000'000;
  guest.Connect(9000);
}

TEST_CASE("vsock: answers wait for receive buffers, and the transmit queue for the answers") {
  Guest guest(0);
  // Far more packets than answers may wait; those beyond stay in the transmit queue.
  for (size_t i = 0; i < kVsockMaxReplies; ++i) {
    guest.Send(Guest::Header(VsockOp::kData, static_cast<uint32_t>(i)));
  }
  for (uint32_t i = 0; i < 10; ++i) {
    guest.Send(Guest::Header(VsockOp::kData, 5000 + i));
  }
  size_t resets = 0;
  for (uint64_t slot = 0; slot < 64; ++slot) guest.PostReceiveBuffer(slot);
  while (const auto packet = guest.Receive()) {
    REQUIRE(packet->op() == VsockOp::kReset);
    ++resets;
  }
  CHECK(resets == kVsockMaxReplies + 10);
  CHECK_FALSE(guest.driver().needs_reset());
}

TEST_CASE("vsock: malformed chains make the device need a reset and close the host's ends") {
  Guest guest(1);
  auto host = guest.Connect(2000);
  SECTION("a transmit chain shorter than a header") {
    const std::array<VirtqueueFake::Buffer, 1> buffers = {
        {{MmioDriverFake::kBuffers, sizeof(VsockHeader) - 1, false}}};
    REQUIRE(guest.driver().queue(1).Add(buffers));
    guest.driver().Notify(1);
  }
  SECTION("a transmit queue that jumps") {
    guest.driver().queue(1).SetAvailIndex(5000);
    guest.driver().Notify(1);
  }
  SECTION("a receive buffer without room for data") {
    guest.Send(Guest::Header(VsockOp::kData, 1));  // Its answer takes the good buffer.
    const std::array<VirtqueueFake::Buffer, 1> buffers = {
        {{MmioDriverFake::kBuffers, sizeof(VsockHeader), true}}};
    REQUIRE(guest.driver().queue(0).Add(buffers));
    guest.Send(Guest::Header(VsockOp::kData, 2));
  }
  CHECK(guest.driver().needs_reset());
  guest.RunLoop();
  bool ended = false;
  ReadAll(host.socket.get(), &ended);
  CHECK(ended);
  guest.Send(Guest::Header(VsockOp::kData, 3));  // Ignored.
}

TEST_CASE("vsock: a reset of the device closes all connections, and it can start again") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.driver().Write(0x70, 0);
  CHECK(guest.device().connection_count() == 0);
  guest.RunLoop();
  bool ended = false;
  ReadAll(host.socket.get(), &ended);
  CHECK(ended);
}

TEST_CASE("vsock: resets from a vCPU's thread do not race with the loop's") {
  Guest guest;
  std::atomic<bool> done{false};
  std::thread vcpu([&] {
    for (int i = 0; i < 200; ++i) {
      MutexLock lock(&guest.lock());
      guest.driver().Write(0x70, 0);
      guest.driver().Start();
    }
    done.store(true);
  });
  std::vector<UniqueFd> hosts;
  while (!done.load()) {
    auto pair = MakeSocketPair();
    send(pair[0].get(), "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    {
      MutexLock lock(&guest.lock());
      (void)guest.device().ConnectVsock(5000, std::move(pair[1]));
    }
    hosts.push_back(std::move(pair[0]));
    if (hosts.size() > 64) hosts.clear();
    REQUIRE(guest.loop().RunOnce(0).ok());
  }
  vcpu.join();
  guest.driver().Write(0x70, 0);
  guest.RunLoop();
  for (const UniqueFd& host : hosts) {
    bool ended = false;
    ReadAll(host.get(), &ended);
    CHECK(ended);
  }
}

TEST_CASE("vsock: a connect before the driver is ready waits for it") {
  Mutex lock;
  auto loop = *EventLoop::Create();
  auto device = *Vsock::Create({3, {}, {}, loop.get(), &lock});
  MmioDriverFake driver(device.get());
  auto pair = MakeSocketPair();
  REQUIRE(device->ConnectVsock(5000, std::move(pair[1])).ok());
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 4096, true}}};
  REQUIRE(driver.queue(0).Add(buffers));
  driver.Start();
  REQUIRE(driver.queue(0).TakeUsed().has_value());
  const auto header = driver.memory().ReadValue<VsockHeader>(MmioDriverFake::kBuffers);
  CHECK(header->op.get() == static_cast<uint16_t>(VsockOp::kRequest));
  CHECK(header->dst_port.get() == 5000);
}

}  // namespace
}  // namespace hearth::vmm
