// SPDX-License-Identifier: Apache-2.0
// What no backend can do: it is said what is wrong, and nothing is left.
#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "tests/conformance/guest.h"

namespace hearth::conformance {
namespace {

// More than any backend takes.
constexpr size_t kTooManyDisks = 9;
constexpr size_t kMaxSerialBytes = 20;

void CheckRefused(control::MachineSpec spec, absl::StatusCode code, const std::string& named) {
  World& world = World::Get();
  const absl::Status status = world.backend().Create(std::move(spec)).status();
  INFO(status);
  CHECK(status.code() == code);
  CHECK(absl::StrContains(status.message(), named));
  world.RequireNoMachine();
}

// Beside the agent's, the runtime's and the code's.
void AddDisks(control::MachineSpec* spec, size_t count) {
  while (spec->disks.size() < count) {
    spec->disks.push_back({spec->disks.back().path, true, std::to_string(spec->disks.size())});
  }
}

TEST_CASE("what a machine cannot be made of is named, and leaves nothing") {
  control::MachineSpec spec = World::Get().Spec();
  SECTION("a kernel that is not there") {
    spec.kernel_path = "/nonexistent/vmlinux";
    CheckRefused(std::move(spec), absl::StatusCode::kNotFound, "/nonexistent/vmlinux");
  }
  SECTION("a disk that is not there") {
    spec.disks[1].path = "/nonexistent/disk";
    CheckRefused(std::move(spec), absl::StatusCode::kNotFound, "/nonexistent/disk");
  }
  SECTION("no memory") {
    spec.memory_mib = 0;
    CheckRefused(std::move(spec), absl::StatusCode::kInvalidArgument, "0");
  }
  SECTION("too many disks") {
    AddDisks(&spec, kTooManyDisks);
    CheckRefused(std::move(spec), absl::StatusCode::kInvalidArgument, "disks");
  }
  SECTION("more disks than a request can carry") {
    AddDisks(&spec, 20);
    CheckRefused(std::move(spec), absl::StatusCode::kInvalidArgument, "limit");
  }
  SECTION("a serial one byte too long") {
    spec.disks[2].serial = std::string(kMaxSerialBytes + 1, 's');
    CheckRefused(std::move(spec), absl::StatusCode::kInvalidArgument, "serial");
  }
  SECTION("a kernel that is none") {
    spec.kernel_path = spec.disks[2].path;
    CheckRefused(std::move(spec), absl::StatusCode::kInvalidArgument, "kernel");
  }
}

TEST_CASE("a machine at the limits is made") {
  control::MachineSpec spec = World::Get().Spec();
  AddDisks(&spec, control::kMostDisks);
  spec.disks.back().serial = std::string(kMaxSerialBytes, 's');
  std::unique_ptr<Guest> guest = Guest::Create(std::move(spec));
  REQUIRE(guest->machine().Start().ok());
  // Its agent finds its own disks among them.
  guest->Connect();
  guest->Configure();
  CHECK(guest->Shell("wc -c < /var/task/data") == std::to_string(kDataBytes) + "\n");
}

}  // namespace
}  // namespace hearth::conformance
