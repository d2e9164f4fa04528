// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/serial.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <string>

namespace hearth::vmm {
namespace {

struct Fixture {
  explicit Fixture(uint64_t bytes_per_second = 0) {
    std::array<int, 2> fds;
    REQUIRE(pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK) == 0);
    reader = UniqueFd(fds[0]);
    loop = *EventLoop::Create();
    serial = *Serial::Create(
        {UniqueFd(fds[1]), bytes_per_second, [this] { ++interrupts; }, loop.get(), &lock});
  }
  uint8_t In(uint64_t port) {
    std::array<uint8_t, 1> value{};
    serial->Read(port, value);
    return value[0];
  }
  void Out(uint64_t port, uint8_t value) { serial->Write(port, {&value, 1}); }
  void Print(std::string_view text) {
    for (const char c : text) Out(0, static_cast<uint8_t>(c));
  }
  std::string Output() {
    std::string text;
    std::array<char, 4096> buffer;
    ssize_t got;
    while ((got = read(reader.get(), buffer.data(), buffer.size())) > 0) {
      text.append(buffer.data(), static_cast<size_t>(got));
    }
    return text;
  }

  Mutex lock;
  UniqueFd reader;
  int interrupts = 0;
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Serial> serial;
};

TEST_CASE("serial: a line goes out with its newline") {
  Fixture f;
  f.Print("Linux version 6.1\n");
  CHECK(f.Output() == "Linux version 6.1\n");
}

TEST_CASE("serial: the first byte after a pause goes out at once, the rest by the timer") {
  Fixture f;
  f.Print("x");
  CHECK(f.Output() == "x");
  f.Print("prompt> ");
  std::string text = f.Output();
  while (text.size() < 8) {
    REQUIRE(f.loop->RunOnce(-1).ok());
    text += f.Output();
  }
  CHECK(text == "prompt> ");
}

TEST_CASE("serial: Flush() writes out what is buffered") {
  Fixture f;
  f.Print("one two");
  f.serial->Flush();
  CHECK(f.Output() == "one two");
}

TEST_CASE("serial: a reader that does not read costs bytes, never the guest's time") {
  Fixture f(1 << 30);
  const std::string line = std::string(99, 'a') + "\n";
  for (int i = 0; i < 2000; ++i) f.Print(line);
  const uint64_t dropped = f.serial->dropped_bytes();
  CHECK(dropped > 0);
  std::string text = f.Output();
  f.serial->Flush();
  text += f.Output();
  CHECK(text.size() + dropped == 2000 * line.size());
  f.Print("again\n");
  CHECK(f.Output() == "again\n");
}

TEST_CASE("serial: beyond the rate bytes are dropped and counted") {
  Fixture f(1);
  std::string text;
  for (uint64_t i = 0; i < kSerialBurstBytes + 1000; ++i) {
    f.Print("b");
    if (i % 1024 == 0) text += f.Output();
  }
  f.serial->Flush();
  text += f.Output();
  CHECK(f.serial->dropped_bytes() >= 900);
  CHECK(text.size() + f.serial->dropped_bytes() == kSerialBurstBytes + 1000);
}

TEST_CASE("serial: a reader that is gone ends the output for good") {
  std::signal(SIGPIPE, SIG_IGN);
  Fixture f;
  f.reader.reset();
  f.Print("lost\n");
  CHECK(f.serial->dropped_bytes() == 1);  // The first byte went out at once, and failed.
  f.Print("more\n");
}

TEST_CASE("serial: without an output descriptor the registers still work") {
  auto loop = *EventLoop::Create();
  Mutex lock;
  auto serial = *Serial::Create({UniqueFd(), 0, {}, loop.get(), &lock});
  const std::array<uint8_t, 1> byte = {'x'};
  serial->Write(0, byte);
  std::array<uint8_t, 1> status{};
  serial->Read(5, status);
  CHECK(status[0] == 0x60);
}

TEST_CASE("serial: the 8250 driver's probes find a 16550A") {
  Fixture f;
  f.Out(1, 0);
  CHECK(f.In(1) == 0);
  f.Out(1, 0x0f);
  CHECK((f.In(1) & 0x0f) == 0x0f);
  f.Out(1, 0xff);
  CHECK(f.In(1) == 0x0f);  // No UUE bit: not an XScale.
  f.Out(1, 0);
  f.Out(4, 0x1a);  // Loopback: RTS and OUT2 come back as CTS and DCD.
  CHECK((f.In(6) & 0xf0) == 0x90);
  f.Out(4, 0x0b);
  CHECK((f.In(6) & 0xf0) == 0xb0);
  f.Out(2, 0x01);
  CHECK((f.In(2) >> 6) == 3);
  f.Out(2, 0);
  CHECK((f.In(2) >> 6) == 0);
  f.Out(7, 0x5a);
  CHECK(f.In(7) == 0x5a);
}

TEST_CASE("serial: the divisor hides behind the latch bit") {
  Fixture f;
  f.Out(3, 0x83);
  f.Out(0, 1);
  f.Out(1, 2);
  CHECK(f.In(0) == 1);
  CHECK(f.In(1) == 2);
  f.Out(3, 0x03);
  CHECK(f.In(1) == 0);
  CHECK(f.serial->state().divisor_low == 1);
  CHECK(f.Output().empty());
}

TEST_CASE("serial: the transmitter-empty interrupt comes when enabled and after each byte") {
  Fixture f;
  f.Out(1, 0x02);
  CHECK(f.interrupts == 1);
  CHECK(f.In(2) == 0x02);
  CHECK(f.In(2) == 0x01);  // Reading acknowledged it.
  f.Out(0, 'x');
  CHECK(f.interrupts == 2);
  CHECK(f.In(2) == 0x02);
  f.Out(1, 0);
  f.Out(1, 0x02);
  CHECK(f.interrupts == 3);
  CHECK(f.In(2) == 0x02);
}

TEST_CASE("serial: input waits in a bounded FIFO, what does not fit is an overrun") {
  Fixture f;
  f.Out(1, 0x05);
  std::array<uint8_t, 100> input{};
  for (size_t i = 0; i < input.size(); ++i) input[i] = static_cast<uint8_t>(i);
  CHECK(f.serial->Receive(input) == kSerialInputFifoBytes);
  CHECK(f.interrupts == 1);
  CHECK(f.In(2) == 0x06);
  CHECK(f.In(5) == 0x63);
  CHECK(f.In(5) == 0x61);
  CHECK(f.In(2) == 0x04);
  for (size_t i = 0; i < kSerialInputFifoBytes; ++i) REQUIRE(f.In(0) == i);
  CHECK(f.In(2) == 0x01);
  CHECK(f.In(5) == 0x60);
  CHECK(f.In(0) == 0);
  f.serial->Receive({input.data(), 3});
  f.Out(2, 0x03);
  CHECK(f.In(5) == 0x60);
}

TEST_CASE("serial: accesses wider than a byte and beyond the ports do no harm") {
  Fixture f;
  std::array<uint8_t, 8> wide{};
  for (uint64_t offset = 0; offset < 8; ++offset) {
    f.serial->Read(offset, wide);
    f.serial->Write(offset, wide);
  }
}

}  // namespace
}  // namespace hearth::vmm
