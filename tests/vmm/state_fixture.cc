// SPDX-License-Identifier: Apache-2.0
// Makes the state that vmm/snapshot/testdata keeps: a machine of two vCPUs with all devices, each
// with a driver. Who raises the format's version runs this once more (docs/snapshots.md):
//   HEARTH_FIXTURE=vmm/snapshot/testdata/saved_machine_vN vmm_process_test "[fixture]"
#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>

#include "tests/hostile-guest/hostile_machine.h"
#include "vmm/testing/snapshot_calls.h"

namespace hearth::vmm::testing {
namespace {

constexpr uint32_t kScratchRegister = 0x3ff, kScratch = 0x5a;
constexpr uint32_t kUnused = 0x700000;

absl::Status Command(VmmProcess& process, void (*fill)(v1::Request&)) {
  v1::Request request;
  fill(request);
  return process.Call(std::move(request)).status();
}

TEST_CASE("fixture: a saved machine for the tests of the versions to come", "[.fixture]") {
  REQUIRE_KVM();
  const char* const path = std::getenv("HEARTH_FIXTURE");
  REQUIRE(path != nullptr);
  PokeScript script;
  script.Out8(kScratchRegister, kScratch);
  for (const Target target : kTargets) {
    HostileDriver driver(target, std::move(script));
    driver.BringUp();
    // Of its transmit queue no other driver has the memory.
    if (target == Target::kVsock) driver.DescribeGoodRequest().Offer(1, {0}).AwaitUsed(1, 1);
    script = std::move(driver.script());
  }
  script.StartFlipping(kUnused, 1, 1);
  script.Read32(kUnused).Repeat(script.size() - 1, UINT32_MAX);
  HostileVmm vmm = StartHostile(script, 2);
  std::array<uint8_t, 4> served{};  // A serial port gives a byte at a time.
  for (uint8_t& byte : served) REQUIRE(read(vmm.console.get(), &byte, 1) == 1);
  REQUIRE(served == std::array<uint8_t, 4>{1});
  // Until the second vCPU flips.
  uint8_t read_back = 0;
  while (read_back == 0) REQUIRE(read(vmm.console.get(), &read_back, 1) == 1);
  REQUIRE(Command(vmm.process, [](v1::Request& request) { request.mutable_pause(); }).ok());
  const auto files = SaveMachine(vmm.process);
  REQUIRE(files.ok());
  std::string state(files->sizes.state_bytes(), '\0');
  REQUIRE(pread(files->state.get(), state.data(), state.size(), 0) ==
          static_cast<ssize_t>(state.size()));
  std::ofstream(path, std::ios::binary) << state;
}

}  // namespace
}  // namespace hearth::vmm::testing
