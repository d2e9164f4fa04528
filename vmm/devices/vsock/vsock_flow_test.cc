// SPDX-License-Identifier: Apache-2.0
// Credit, volume, and the ends of connections.
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "vmm/devices/vsock/guest_fake.h"

namespace hearth::vmm {
namespace {

using Guest = VsockGuestFake;

std::string Pattern(size_t bytes, size_t seed) {
  std::string text(bytes, 0);
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 31 + i / 251 + seed) & 0xff);
  return text;
}

VsockHeader Shutdown(uint32_t guest_port, uint32_t flags) {
  auto header = Guest::Header(VsockOp::kShutdown, guest_port);
  header.flags = flags;
  return header;
}

TEST_CASE("vsock: megabytes go both ways at once, unharmed, through small credit") {
  constexpr size_t kTotal = 5 << 20;
  constexpr uint32_t kGuestBuffer = 20000;
  const std::string to_host = Pattern(kTotal, 1);
  const std::string to_guest = Pattern(kTotal, 2);
  Guest guest;
  auto host = guest.Connect(2000);
  std::string host_got;
  std::string guest_got;
  size_t host_sent = 0;
  uint32_t guest_sent = 0;
  uint32_t device_fwd = 0;  // What the device last told of the guest's stream.
  const auto header = [&](VsockOp op) {
    auto h = Guest::Header(op, 2000);
    h.buf_alloc = kGuestBuffer;
    h.fwd_cnt = static_cast<uint32_t>(guest_got.size());
    return h;
  };
  guest.Send(header(VsockOp::kCreditUpdate));
  size_t rounds = 0;
  while (host_got.size() < kTotal || guest_got.size() < kTotal) {
    REQUIRE(++rounds < 100000);
    if (host_sent < kTotal) {
      const ssize_t sent = send(host.socket.get(), to_guest.data() + host_sent,
                                std::min<size_t>(kTotal - host_sent, 100000), MSG_DONTWAIT);
      if (sent > 0) host_sent += static_cast<size_t>(sent);
    }
    const uint32_t credit = kVsockBufferBytes - (guest_sent - device_fwd);
    const size_t chunk = std::min<size_t>({kTotal - guest_sent, credit, 30000});
    if (chunk != 0) {
      guest.Send(header(VsockOp::kData), std::string_view(to_host).substr(guest_sent, chunk));
      guest_sent += static_cast<uint32_t>(chunk);
    }
    if (rounds % 3 == 0) host_got += ReadAll(host.socket.get());
    while (const auto packet = guest.Receive()) {
      device_fwd = packet->header.fwd_cnt.get();
      guest_got.append(packet->data.begin(), packet->data.end());
      REQUIRE(packet->op() != VsockOp::kReset);
    }
    guest.Send(header(VsockOp::kCreditUpdate));
  }
  CHECK(host_got == to_host);
  CHECK(guest_got == to_guest);
  CHECK(guest.driver().guest_errors() == 0);
  CHECK(guest.device().counters().rx_bytes == kTotal);
  CHECK(guest.device().counters().tx_bytes == kTotal);
}

TEST_CASE("vsock: a guest that never gives credit anew gets no more than it first gave") {
  Guest guest;
  auto request = Guest::Header(VsockOp::kRequest, 2000);
  request.buf_alloc = 1000;
  guest.Send(request);
  REQUIRE(guest.Receive()->op() == VsockOp::kResponse);
  auto host = std::move(guest.accepted().front());
  const std::string text = Pattern(5000, 0);
  REQUIRE(send(host.socket.get(), text.data(), text.size(), 0) == 5000);
  size_t got = 0;
  bool asked = false;
  while (const auto packet = guest.Receive()) {
    got += packet->data.size();
    asked |= packet->op() == VsockOp::kCreditRequest;
  }
  CHECK(got == 1000);
  CHECK(asked);
  auto update = Guest::Header(VsockOp::kCreditUpdate, 2000);
  update.buf_alloc = 1000;
  update.fwd_cnt = 300;
  guest.Send(update);
  while (const auto packet = guest.Receive()) got += packet->data.size();
  CHECK(got == 1300);
}

TEST_CASE("vsock: hostile credit values only starve the guest that gives them") {
  Guest guest;
  auto host = guest.Connect(2000);
  auto update = Guest::Header(VsockOp::kCreditUpdate, 2000);
  SECTION("forwarded more than was ever sent") {
    update.fwd_cnt = 0xfffffff0;
    update.buf_alloc = 8;
  }
  SECTION("no buffer at all") { update.buf_alloc = 0; }
  guest.Send(update);
  REQUIRE(send(host.socket.get(), "0123456789", 10, 0) == 10);
  CHECK_FALSE(guest.Receive().has_value());
  update.buf_alloc = UINT32_MAX;
  update.fwd_cnt = 0;
  guest.Send(update);
  CHECK(guest.Receive()->data.size() == 10);
}

TEST_CASE("vsock: data beyond the credit given resets the connection") {
  Guest guest;
  auto host = guest.Connect(2000);
  const std::string chunk(60000, 'x');
  std::optional<FakePacket> packet;
  size_t sent = 0;
  // The host reads nothing: its socket fills, then the buffer of the connection.
  while (sent < (4 << 20)) {
    guest.Send(Guest::Header(VsockOp::kData, 2000), chunk);
    sent += chunk.size();
    packet = guest.Receive();
    if (packet && packet->op() == VsockOp::kReset) break;
  }
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kReset);
  CHECK(guest.driver().guest_errors() == 1);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: a credit request is answered") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "12345");
  guest.Send(Guest::Header(VsockOp::kCreditRequest, 2000));
  const auto packet = guest.Receive();
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kCreditUpdate);
  CHECK(packet->header.fwd_cnt.get() == 5);
}

TEST_CASE("vsock: the host's half close lets the guest go on sending") {
  Guest guest;
  auto host = guest.Connect(2000);
  REQUIRE(write(host.socket.get(), "last", 4) == 4);
  REQUIRE(shutdown(host.socket.get(), SHUT_WR) == 0);
  CHECK(guest.Receive()->data.size() == 4);
  const auto packet = guest.Receive();
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kShutdown);
  CHECK(packet->header.flags.get() == kVsockShutdownSend);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "answer");
  CHECK(ReadAll(host.socket.get()) == "answer");
  guest.Send(Shutdown(2000, kVsockShutdownBoth));
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  bool ended = false;
  ReadAll(host.socket.get(), &ended);
  CHECK(ended);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: the guest's half close lets the host go on sending") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "all");
  guest.Send(Shutdown(2000, kVsockShutdownSend));
  bool ended = false;
  CHECK(ReadAll(host.socket.get(), &ended) == "all");
  CHECK(ended);
  REQUIRE(write(host.socket.get(), "reply", 5) == 5);
  CHECK(guest.Receive()->data.size() == 5);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "more");
  CHECK(guest.Receive()->op() == VsockOp::kReset);
}

TEST_CASE("vsock: a guest that takes no more makes the host's writing fail") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Shutdown(2000, kVsockShutdownReceive));
  CHECK(send(host.socket.get(), "x", 1, MSG_NOSIGNAL) == -1);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "still");
  CHECK(ReadAll(host.socket.get()) == "still");
}

TEST_CASE("vsock: a host end that is closed delivers the rest and ends the connection") {
  Guest guest;
  auto host = guest.Connect(2000);
  REQUIRE(write(host.socket.get(), "bye", 3) == 3);
  host.socket.reset();
  CHECK(guest.Receive()->data.size() == 3);
  const auto packet = guest.Receive();
  REQUIRE(packet.has_value());
  CHECK(packet->op() == VsockOp::kShutdown);
  CHECK(packet->header.flags.get() == kVsockShutdownBoth);
  SECTION("the guest answers with RST") { guest.Send(Guest::Header(VsockOp::kReset, 2000)); }
  SECTION("the guest answers with its own end") {
    guest.Send(Shutdown(2000, kVsockShutdownBoth));
    CHECK(guest.Receive()->op() == VsockOp::kReset);
  }
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: a half close that becomes a close ends the connection") {
  Guest guest;
  auto host = guest.Connect(2000);
  shutdown(host.socket.get(), SHUT_WR);
  CHECK(guest.Receive()->header.flags.get() == kVsockShutdownSend);
  host.socket.reset();
  CHECK(guest.Receive()->header.flags.get() == kVsockShutdownBoth);
}

TEST_CASE("vsock: what the guest sent before its end still arrives at a slow host") {
  Guest guest;
  auto host = guest.Connect(2000);
  const std::string chunk = Pattern(60000, 7);
  std::string sent;
  uint32_t device_fwd = 0;
  while (sent.size() - device_fwd + chunk.size() <= kVsockBufferBytes) {
    guest.Send(Guest::Header(VsockOp::kData, 2000), chunk);
    sent += chunk;
    while (const auto packet = guest.Receive()) device_fwd = packet->header.fwd_cnt.get();
  }
  guest.Send(Shutdown(2000, kVsockShutdownBoth));
  CHECK_FALSE(guest.Receive().has_value());  // Not yet: the host has not got it all.
  SECTION("the guest waits for the RST") {}
  SECTION("the guest loses patience") { guest.Send(Guest::Header(VsockOp::kReset, 2000)); }
  std::string got;
  bool ended = false;
  for (int i = 0; i < 1000 && !ended; ++i) {
    got += ReadAll(host.socket.get(), &ended);
    guest.RunLoop();
  }
  CHECK(ended);
  CHECK(got == sent);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: an RST without an end drops what is buffered") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.Send(Guest::Header(VsockOp::kReset, 2000));
  CHECK(guest.device().connection_count() == 0);
  bool ended = false;
  ReadAll(host.socket.get(), &ended);
  CHECK(ended);
}

TEST_CASE("vsock: nothing spins when neither side can move") {
  Guest guest(1);
  auto host = guest.Connect(2000);
  REQUIRE(send(host.socket.get(), std::string(50000, 'x').data(), 50000, 0) == 50000);
  guest.RunLoop();
  REQUIRE(guest.Receive(false).has_value());  // The only buffer, not posted again.
  guest.RunLoop();
  // With data waiting and no buffer, epoll has nothing to report.
  bool woken = false;
  guest.loop().Post([&] { woken = true; });
  REQUIRE(guest.loop().RunOnce(-1).ok());
  CHECK(woken);
  const uint64_t sent = guest.device().counters().tx_bytes;
  REQUIRE(guest.loop().RunOnce(0).ok());
  CHECK(guest.device().counters().tx_bytes == sent);
  guest.PostReceiveBuffer(0);
  CHECK(guest.Receive()->data.size() == 4096);
}

TEST_CASE("vsock: a guest that does not answer a connect in time loses it") {
  Guest guest;
  auto pair = MakeSocketPair();
  REQUIRE(guest.device().ConnectVsock(5000, std::move(pair[1])).ok());
  REQUIRE(guest.Receive()->op() == VsockOp::kRequest);
  fake_now_ns += kVsockConnectTimeoutNs - 1;
  guest.device().Sweep();
  CHECK_FALSE(guest.Receive().has_value());
  fake_now_ns += 1;
  guest.device().Sweep();
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  bool ended = false;
  ReadAll(pair[0].get(), &ended);
  CHECK(ended);
}

TEST_CASE("vsock: an established connection has no time limit") {
  Guest guest;
  auto accepted = guest.Connect(2000);
  auto connected = guest.AcceptFromHost();
  fake_now_ns += 1000 * kVsockLingerTimeoutNs;
  guest.device().Sweep();
  CHECK(guest.device().connection_count() == 2);
}

TEST_CASE(
    "vsock: a guest that ignores the end of a connection is told once more, then it is gone") {
  Guest guest;
  auto host = guest.Connect(2000);
  host.socket.reset();
  REQUIRE(guest.Receive()->header.flags.get() == kVsockShutdownBoth);
  guest.Send(Guest::Header(VsockOp::kData, 2000), "late");  // Goes nowhere.
  fake_now_ns += kVsockCloseTimeoutNs;
  guest.device().Sweep();
  CHECK(guest.Receive()->op() == VsockOp::kReset);
  CHECK(guest.device().connection_count() == 0);
}

TEST_CASE("vsock: what a closed host end wrote waits for credit, but not for ever") {
  Guest guest;
  auto host = guest.Connect(2000);
  auto update = Guest::Header(VsockOp::kCreditUpdate, 2000);
  update.buf_alloc = 0;
  guest.Send(update);
  REQUIRE(send(host.socket.get(), "rest", 4, 0) == 4);
  host.socket.reset();
  CHECK_FALSE(guest.Receive().has_value());
  fake_now_ns += kVsockLingerTimeoutNs - 1;
  guest.device().Sweep();
  CHECK(guest.device().connection_count() == 1);
  SECTION("credit comes") {
    update.buf_alloc = 100;
    guest.Send(update);
    CHECK(guest.Receive()->data.size() == 4);
    CHECK(guest.Receive()->header.flags.get() == kVsockShutdownBoth);
  }
  SECTION("no credit comes") {
    fake_now_ns += 1;
    guest.device().Sweep();
    CHECK(guest.Receive()->op() == VsockOp::kReset);
    CHECK(guest.device().connection_count() == 0);
  }
}

TEST_CASE("vsock: connections take turns") {
  Guest guest(2);
  auto a = guest.Connect(2000);
  auto b = guest.Connect(2001);
  for (uint32_t unknown = 1; unknown <= 2; ++unknown) {  // Uses up the two buffers.
    guest.Send(Guest::Header(VsockOp::kData, unknown));
    REQUIRE(guest.Receive(false)->op() == VsockOp::kReset);
  }
  const std::string text(20000, 'x');
  REQUIRE(send(a.socket.get(), text.data(), text.size(), 0) == 20000);
  REQUIRE(send(b.socket.get(), text.data(), text.size(), 0) == 20000);
  guest.RunLoop();
  guest.PostReceiveBuffer(0);
  guest.PostReceiveBuffer(1);
  const uint32_t first = guest.Receive()->header.dst_port.get();
  const uint32_t second = guest.Receive()->header.dst_port.get();
  CHECK(first != second);
}

}  // namespace
}  // namespace hearth::vmm
