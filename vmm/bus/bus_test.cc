// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <array>
#include <catch2/catch.hpp>

namespace hearth::vmm {
namespace {

class Recorder : public BusDevice {
 public:
  void Read(uint64_t offset, std::span<uint8_t> data) override {
    last_offset = offset;
    for (uint8_t& byte : data) byte = 0x5a;
  }
  void Write(uint64_t offset, std::span<const uint8_t> data) override {
    last_offset = offset;
    written = data.size();
  }
  uint64_t last_offset = ~0ull;
  size_t written = 0;
};

TEST_CASE("bus: an access goes to the device whose range holds it, with an offset") {
  Bus bus;
  Recorder low, high;
  REQUIRE(bus.Insert(0x2000, 0x1000, &high).ok());
  REQUIRE(bus.Insert(0x1000, 0x1000, &low).ok());
  std::array<uint8_t, 4> data{};
  CHECK(bus.Read(0x1ffc, data));
  CHECK(low.last_offset == 0xffc);
  CHECK(data[3] == 0x5a);
  CHECK(bus.Write(0x2000, data));
  CHECK(high.last_offset == 0);
  CHECK(high.written == 4);
}

TEST_CASE("bus: an access outside every range or across an end reads ones and writes nothing") {
  Bus bus;
  Recorder device;
  REQUIRE(bus.Insert(0x1000, 0x1000, &device).ok());
  REQUIRE(bus.Insert(~0ull - 0xf, 0xf, &device).ok());
  for (uint64_t address : {0ull, 0xfffull, 0x1ffdull, 0x2000ull, ~0ull, ~0ull - 2}) {
    std::array<uint8_t, 4> data{};
    CHECK(!bus.Read(address, data));
    CHECK(data[0] == 0xff);
    CHECK(!bus.Write(address, data));
  }
  CHECK(device.last_offset == ~0ull);
}

TEST_CASE("bus: empty, wrapping and overlapping ranges are refused") {
  Bus bus;
  Recorder device;
  REQUIRE(bus.Insert(0x1000, 0x1000, &device).ok());
  CHECK(!bus.Insert(0x3000, 0, &device).ok());
  CHECK(!bus.Insert(~0ull, 2, &device).ok());
  for (uint64_t base : {0x800ull, 0x1000ull, 0x1fffull, 0x1400ull}) {
    CHECK(bus.Insert(base, 0x1000, &device).code() == absl::StatusCode::kAlreadyExists);
  }
  CHECK(bus.Insert(0x2000, 1, &device).ok());
  CHECK(bus.Insert(0xfff, 1, &device).ok());
}

}  // namespace
}  // namespace hearth::vmm
