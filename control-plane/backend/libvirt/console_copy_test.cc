// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/console_copy.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "control-plane/backend/libvirt/limits.h"
#include "wire/fd_socket.h"

namespace hearth::libvirt {
namespace {

struct Tested {
  explicit Tested(uint32_t bytes_per_second) {
    auto ends = *wire::MakeSocketPair();
    guest = std::move(ends.first);
    int pipe_ends[2];
    REQUIRE(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) == 0);
    reader.reset(pipe_ends[0]);
    UniqueFd writer(pipe_ends[1]);
    // All that a burst may have, so that only the rate limits.
    REQUIRE(fcntl(writer.get(), F_SETPIPE_SZ, 2 * static_cast<int>(kConsoleBurstBytes)) > 0);
    copy = *ConsoleCopy::Start(loop.get(), std::move(ends.second), std::move(writer),
                               bytes_per_second);
  }
  // Of the guest, however much a socket takes at a time.
  void Write(size_t bytes) {
    const std::string text(bytes, 'x');
    for (size_t at = 0; at < bytes;) {
      const ssize_t wrote =
          send(guest.get(), text.data() + at, bytes - at, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (wrote > 0) at += static_cast<size_t>(wrote);
      REQUIRE(loop->RunOnce(0).ok());
    }
    copy->Drain();
  }
  size_t Read() {
    std::string text(4 * kConsoleBurstBytes, '\0');
    size_t all = 0;
    ssize_t got = 0;
    while ((got = read(reader.get(), text.data(), text.size())) > 0) {
      all += static_cast<size_t>(got);
    }
    return all;
  }
  std::unique_ptr<EventLoop> loop = *EventLoop::Create();
  UniqueFd guest, reader;
  std::unique_ptr<ConsoleCopy> copy;
};

TEST_CASE("console: what the guest writes arrives, that of before its end too") {
  Tested tested(0);
  REQUIRE(send(tested.guest.get(), "hello", 5, 0) == 5);
  REQUIRE(tested.loop->RunOnce(0).ok());
  CHECK(tested.Read() == 5);
  REQUIRE(send(tested.guest.get(), "bye", 3, 0) == 3);
  tested.guest.reset();
  tested.copy->Drain();
  CHECK(tested.Read() == 3);
  CHECK(tested.copy->dropped_bytes() == 0);
}

TEST_CASE("console: beyond a burst it is limited to its rate; the rest is dropped and counted") {
  Tested tested(1);
  const size_t written = 2 * kConsoleBurstBytes;
  tested.Write(written);
  const size_t arrived = tested.Read();
  CHECK(arrived >= kConsoleBurstBytes);
  CHECK(arrived < kConsoleBurstBytes + 100);  // A byte for each second that it took.
  CHECK(arrived + tested.copy->dropped_bytes() == written);
}

TEST_CASE("console: a reader that does not read costs the guest nothing but its words") {
  Tested tested(0);
  REQUIRE(fcntl(tested.reader.get(), F_SETPIPE_SZ, 4096) > 0);
  const size_t written = kConsoleBurstBytes / 2;
  tested.Write(written);
  CHECK(tested.copy->dropped_bytes() > 0);
  CHECK(tested.Read() + tested.copy->dropped_bytes() == written);
}

}  // namespace
}  // namespace hearth::libvirt
