// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>

#include "vmm/devices/vsock/guest_fake.h"

namespace hearth::vmm {
namespace {

using Guest = VsockGuestFake;
const std::vector<uint32_t> kPorts = {kFakeHostPort, kFakeHostPort + 1};
constexpr int kEventBuffers = 4;

std::string Text(const FakePacket& packet) { return {packet.data.begin(), packet.data.end()}; }

std::unique_ptr<Guest> RestoreTransport(const Guest& saved, uint32_t cid = kFakeCid,
                                        const std::vector<uint32_t>& ports = kPorts) {
  auto& from = const_cast<Guest&>(saved);
  auto copy = std::make_unique<Guest>(saved, cid, ports);
  REQUIRE(copy->driver().transport().Restore(from.driver().transport().state()).ok());
  return copy;
}

// What the machine does, in its order.
std::unique_ptr<Guest> Restore(Guest& saved) {
  auto copy = RestoreTransport(saved);
  REQUIRE(copy->device().Restore(saved.device().state()).ok());
  copy->driver().transport().ResumeRestored();
  copy->RunLoop();
  return copy;
}

// As Linux does: takes the event, then makes its buffer available again.
void AnswerReset(Guest& guest) {
  REQUIRE(guest.TakeEvent() == kVsockEventTransportReset);
  guest.PostEventBuffer();
  guest.driver().Notify(kVsockEventQueue);
}

std::unique_ptr<Guest> GuestWithEventBuffers() {
  auto guest = std::make_unique<Guest>();
  for (int i = 0; i < kEventBuffers; ++i) guest->PostEventBuffer();
  guest->driver().Notify(kVsockEventQueue);
  return guest;
}

TEST_CASE("vsock restore: the driver is told by a transport reset, once") {
  auto guest = GuestWithEventBuffers();
  auto host = guest->Connect(2000);
  auto copy = Restore(*guest);
  CHECK(copy->device().connection_count() == 0);
  CHECK(copy->device().reset() == VsockReset::kUnanswered);
  CHECK(copy->driver().interrupts() >= 1);
  AnswerReset(*copy);
  CHECK(copy->device().reset() == VsockReset::kNone);
  CHECK_FALSE(copy->TakeEvent().has_value());
  auto again = copy->Connect(2001);
  copy->Send(Guest::Header(VsockOp::kData, 2001), "back");
  CHECK(ReadAll(again.socket.get()) == "back");
  CHECK(copy->driver().guest_errors() == 0);
}

TEST_CASE("vsock restore: no ring is worked on before the loop runs") {
  auto guest = GuestWithEventBuffers();
  guest->Queue(Guest::Header(VsockOp::kRequest, 2000), 0);
  auto copy = RestoreTransport(*guest);
  REQUIRE(copy->device().Restore(guest->device().state()).ok());
  copy->driver().transport().ResumeRestored();
  const auto next_used = [&](uint16_t queue) {
    return copy->driver().transport().state().queues[queue].next_used;
  };
  const auto before = guest->driver().transport().state();
  for (uint16_t queue = 0; queue <= kVsockEventQueue; ++queue) {
    CHECK(next_used(queue) == before.queues[queue].next_used);
  }
  copy->RunLoop();
  CHECK(next_used(kVsockEventQueue) == before.queues[kVsockEventQueue].next_used + 1);
}

TEST_CASE("vsock restore: the machine that was saved keeps its connections") {
  auto guest = GuestWithEventBuffers();
  auto host = guest->Connect(2000);
  guest->Send(Guest::Header(VsockOp::kData, 2000), "one ");
  auto copy = Restore(*guest);
  guest->Send(Guest::Header(VsockOp::kData, 2000), "two");
  CHECK(ReadAll(host.socket.get()) == "one two");
  REQUIRE(write(host.socket.get(), "three", 5) == 5);
  CHECK(Text(*guest->Receive()) == "three");
  CHECK_FALSE(guest->TakeEvent().has_value());
  auto more = guest->AcceptFromHost();
  CHECK(guest->device().connection_count() == 2);
}

TEST_CASE("vsock restore: without an event buffer the reset waits for one") {
  Guest guest;
  auto host = guest.Connect(2000);
  auto copy = Restore(guest);
  CHECK(copy->device().reset() == VsockReset::kOwed);
  // Linux notifies of the buffer only if the device asks for it.
  CHECK(copy->driver().queue(kVsockEventQueue).AvailEvent() == 0);
  copy->PostEventBuffer();
  copy->driver().Notify(kVsockEventQueue);
  CHECK(copy->device().reset() == VsockReset::kUnanswered);
  CHECK(copy->driver().queue(kVsockEventQueue).AvailEvent() == 1);
  AnswerReset(*copy);
  CHECK(copy->device().reset() == VsockReset::kNone);
}

TEST_CASE("vsock restore: the device asks to be notified of the answer") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  CHECK(copy->driver().queue(kVsockEventQueue).AvailEvent() == kEventBuffers);
}

TEST_CASE("vsock restore: a driver that was not ready has nothing to be reset") {
  Guest guest;
  guest.driver().Write(0x70, 0);
  guest.driver().NegotiateFeatures(true);
  auto copy = Restore(guest);
  CHECK(copy->device().reset() == VsockReset::kNone);
}

TEST_CASE("vsock restore: a driver without an event queue learns by RSTs") {
  Guest guest;
  auto host = guest.Connect(2000);
  guest.driver().Write(0x30, kVsockEventQueue);
  guest.driver().Write(0x44, 0);
  auto copy = Restore(guest);
  CHECK(copy->device().reset() == VsockReset::kNone);
  copy->Send(Guest::Header(VsockOp::kData, 2000), "lost");
  CHECK(copy->Receive()->op() == VsockOp::kReset);
}

TEST_CASE("vsock restore: the host's connect is held back until the driver has answered") {
  auto guest = GuestWithEventBuffers();
  auto before = guest->AcceptFromHost();
  auto copy = Restore(*guest);
  auto pair = MakeSocketPair();
  REQUIRE(copy->device().ConnectVsock(5000, std::move(pair[1])).ok());
  CHECK_FALSE(copy->Receive().has_value());
  AnswerReset(*copy);
  const auto request = copy->Receive();
  REQUIRE(request.has_value());
  CHECK(request->op() == VsockOp::kRequest);
  // The guest may still hold its end of the old connection, with these very ports.
  CHECK(request->header.src_port.get() != before.host_port);
  copy->Send(Guest::Header(VsockOp::kResponse, 5000, request->header.src_port.get()));
  REQUIRE(write(pair[0].get(), "hello", 5) == 5);
  CHECK(Text(*copy->Receive()) == "hello");
}

TEST_CASE("vsock restore: packets from before the snapshot get an RST and nothing else") {
  auto guest = GuestWithEventBuffers();
  auto host = guest->Connect(2000);
  auto from_host = guest->AcceptFromHost();
  // Made available, but not notified of, like all that a paused vCPU leaves behind.
  guest->Queue(Guest::Header(VsockOp::kData, 2000), 0);
  guest->Queue(Guest::Header(VsockOp::kResponse, 5000, from_host.host_port), 1);
  guest->Queue(Guest::Header(VsockOp::kCreditRequest, 2000), 2);
  guest->Queue(Guest::Header(VsockOp::kRequest, 2001), 3);
  guest->Queue(Guest::Header(VsockOp::kReset, 2000), 4);
  auto copy = Restore(*guest);
  CHECK_FALSE(copy->Receive().has_value());  // A packet is no answer.
  AnswerReset(*copy);
  std::vector<uint32_t> ports;
  while (const auto packet = copy->Receive()) {
    CHECK(packet->op() == VsockOp::kReset);
    ports.push_back(packet->header.dst_port.get());
  }
  CHECK(ports == std::vector<uint32_t>{2000, 5000, 2000, 2001});
  CHECK(copy->accepted().empty());
  CHECK(copy->device().connection_count() == 0);
  CHECK_FALSE(copy->driver().needs_reset());
  auto again = copy->Connect(2001);  // The next one is served.
}

TEST_CASE("vsock restore: a connect of the guest before its answer is served after it") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  copy->Send(Guest::Header(VsockOp::kRequest, 2002));
  CHECK(copy->accepted().empty());
  AnswerReset(*copy);
  CHECK(copy->Receive()->op() == VsockOp::kResponse);
  CHECK(copy->accepted().size() == 1);
}

TEST_CASE("vsock restore: an answer that is seen before it is notified of counts") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  REQUIRE(copy->TakeEvent() == kVsockEventTransportReset);
  copy->PostEventBuffer();
  auto host = copy->Connect(2003);
  CHECK(host.guest_port == 2003);
}

TEST_CASE("vsock restore: a copy saved before the driver's answer gets no second reset") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  REQUIRE(copy->device().reset() == VsockReset::kUnanswered);
  auto second = Restore(*copy);
  CHECK(second->device().reset() == VsockReset::kUnanswered);
  AnswerReset(*second);
  CHECK_FALSE(second->TakeEvent().has_value());
  CHECK(second->device().reset() == VsockReset::kNone);
  auto host = second->Connect(2000);
}

TEST_CASE("vsock restore: a copy saved after the answer, but before its notification, has it") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  REQUIRE(copy->TakeEvent() == kVsockEventTransportReset);
  copy->PostEventBuffer();
  auto second = Restore(*copy);
  CHECK(second->device().reset() == VsockReset::kNone);
  auto host = second->Connect(2000);
}

TEST_CASE("vsock restore: a copy saved while the reset waits for a buffer still owes it") {
  Guest guest;
  auto copy = Restore(guest);
  auto second = Restore(*copy);
  CHECK(second->device().reset() == VsockReset::kOwed);
  second->PostEventBuffer();
  second->driver().Notify(kVsockEventQueue);
  AnswerReset(*second);
  CHECK(second->device().reset() == VsockReset::kNone);
}

TEST_CASE("vsock restore: saved and restored over and over, each copy is reset and connects") {
  auto guest = GuestWithEventBuffers();
  for (uint32_t i = 0; i < 40; ++i) {
    auto copy = Restore(*guest);
    AnswerReset(*copy);
    while (const auto packet = copy->Receive()) CHECK(packet->op() == VsockOp::kReset);
    auto to_host = copy->Connect(2000 + i);
    auto from_host = copy->AcceptFromHost();
    copy->Send(Guest::Header(VsockOp::kData, 2000 + i), "x");
    CHECK(ReadAll(to_host.socket.get()) == "x");
    guest = std::move(copy);
  }
  CHECK(guest->driver().guest_errors() == 0);
}

TEST_CASE("vsock restore: a driver that resets the device has no reset to answer") {
  auto guest = GuestWithEventBuffers();
  auto copy = Restore(*guest);
  copy->driver().Write(0x70, 0);
  CHECK(copy->device().reset() == VsockReset::kNone);
  CHECK_FALSE(copy->device().state().reset_unanswered);
}

TEST_CASE("vsock restore: an illegal event queue makes the device need a reset") {
  auto guest = std::make_unique<Guest>();
  SECTION("a buffer shorter than an event") { guest->PostEventBuffer(3); }
  SECTION("a buffer to read from") {
    const std::array<VirtqueueFake::Buffer, 1> buffers = {{{MmioDriverFake::kBuffers, 4, false}}};
    REQUIRE(guest->driver().queue(kVsockEventQueue).Add(buffers));
  }
  auto copy = Restore(*guest);
  CHECK(copy->driver().needs_reset());
  CHECK_FALSE(copy->device().state().reset_unanswered);
  auto pair = MakeSocketPair();
  CHECK(copy->device().ConnectVsock(5000, std::move(pair[1])).ok());
  CHECK_FALSE(copy->Receive().has_value());
  auto second = Restore(*copy);
  CHECK(second->driver().needs_reset());
}

TEST_CASE("vsock restore: an event queue that jumps makes the device need a reset") {
  Guest guest;
  auto copy = Restore(guest);
  copy->driver().queue(kVsockEventQueue).SetAvailIndex(1000);
  copy->driver().Notify(kVsockEventQueue);
  CHECK(copy->driver().needs_reset());
}

TEST_CASE("vsock restore: ports that the guest counts on must be declared, others may be") {
  auto guest = GuestWithEventBuffers();
  auto copy = RestoreTransport(*guest, kFakeCid, {kFakeHostPort});
  const absl::Status status = copy->device().Restore(guest->device().state());
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(status.message().find("1025") != absl::string_view::npos);
  copy = RestoreTransport(*guest, kFakeCid, {7, kFakeHostPort + 1, kFakeHostPort});
  CHECK(copy->device().Restore(guest->device().state()).ok());
}

TEST_CASE("vsock restore: nonsense is refused") {
  auto guest = GuestWithEventBuffers();
  VsockDeviceState state = guest->device().state();
  auto copy = RestoreTransport(*guest);
  SECTION("a host port among those that may be declared") {
    state.next_host_port = kVsockFirstHostPort - 1;
  }
  SECTION("a reset of a driver that is not there") {
    guest->driver().Write(0x70, 0);
    copy = RestoreTransport(*guest);
    state.reset_unanswered = true;
  }
  CHECK(copy->device().Restore(state).code() == absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hearth::vmm
