// SPDX-License-Identifier: Apache-2.0
// Machines saved and restored, as far as a backend's capabilities go.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <iostream>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/conformance/guest.h"

namespace hearth::conformance {
namespace {

using control::MachineExit;
using Ids = std::vector<std::string>;

constexpr char kKept[] = "written before the machine was saved\n";
// Beyond what is measured in tenths of MiB from one run to the next; a domain's worth of anything
// is more in a few rounds.
constexpr int64_t kMostGrowthBytes = 2 << 20;
constexpr int kFirstRounds = 3;  // Until allocators and caches have what they keep.

absl::StatusCode SaveCode(Guest& guest, const SavedFiles& saved) {
  return guest.machine().Save(saved.state.get(), saved.memory.get()).code();
}

// A guest with something in its memory, saved.
void SaveOne(SavedFiles* saved) {
  World& world = World::Get();
  std::unique_ptr<Guest> guest = Guest::Boot(/*to_be_saved=*/true);
  guest->Shell(absl::StrCat("printf '%s' '", kKept, "' > /tmp/kept"));
  guest->Park();
  CHECK(SaveCode(*guest, *saved) == absl::StatusCode::kFailedPrecondition);  // It runs.
  REQUIRE(guest->machine().Pause().ok());
  const absl::Status status = guest->machine().Save(saved->state.get(), saved->memory.get());
  INFO(status);
  REQUIRE(status.ok());
  if (world.capabilities().survives_save) {
    CHECK(world.ListAlive() == Ids{guest->id()});
    CHECK_FALSE(guest->ended());
    REQUIRE(guest->machine().Resume().ok());
    guest->Connect();
    guest->TellIdentity();
    CHECK(guest->Shell("cat /tmp/kept") == kKept);
  } else {
    const MachineExit exit = guest->AwaitExit();
    INFO(exit.detail);
    CHECK(exit.reason == MachineExit::Reason::kStopped);
    CHECK(world.ListAlive().empty());
  }
  guest.reset();
  world.RequireNoMachine();
  saved->Seal();
}

void CheckRefused(control::RestoreSpec spec) {
  World& world = World::Get();
  const absl::Status status = world.backend().Restore(std::move(spec)).status();
  INFO(status);
  CHECK((status.code() == absl::StatusCode::kInvalidArgument ||
         status.code() == absl::StatusCode::kFailedPrecondition));
  CHECK_FALSE(status.message().empty());
  world.RequireNoMachine();
}

TEST_CASE("a saved machine is restored where it was, as often as its backend says", "[saved]") {
  World& world = World::Get();
  SavedFiles saved;
  SaveOne(&saved);

  std::unique_ptr<Guest> first = Guest::Restore(saved);
  CHECK(world.ListAlive() == Ids{first->id()});
  CHECK(first->Shell("cat /tmp/kept") == kKept);
  CHECK(first->Shell("uname -n") == "hearth-restored\n");
  CHECK(first->Shell("echo changed > /tmp/kept; cat /var/task/data | wc -c") ==
        std::to_string(kDataBytes) + "\n");
  const control::MachineStatistics statistics = first->Statistics();
  CHECK(statistics.cpu > absl::ZeroDuration());
  CHECK(statistics.resident_bytes > 0);
  CHECK(statistics.block_read_bytes >= kDataBytes);

  if (world.capabilities().clones) {
    const std::unique_ptr<Guest> second = Guest::Restore(saved);
    CHECK(world.ListAlive().size() == 2);
    CHECK(second->Shell("cat /tmp/kept") == kKept);
    CHECK(first->Shell("cat /tmp/kept") == "changed\n");
  } else {
    const absl::Status refused = world.backend().Restore(Guest::SpecOf(saved)).status();
    INFO(refused);
    CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
    CHECK(world.ListAlive() == Ids{first->id()});
    CHECK(first->Shell("cat /tmp/kept") == "changed\n");
  }
  first.reset();
  world.RequireNoMachine();

  const std::unique_ptr<Guest> again = Guest::Restore(saved);
  CHECK(again->Shell("cat /tmp/kept") == kKept);
  REQUIRE(again->machine().Pause().ok());
  REQUIRE(again->machine().Resume().ok());
  CHECK(again->Shell("echo awake") == "awake\n");
  again->ShutDown();
  REQUIRE(again->machine().Stop(absl::Now() + kPatience).ok());
  CheckGuestEnded(again->AwaitExit());
  INFO(again->Console());
  CHECK(absl::StrContains(again->Console(), "hearth-agent: shut down"));
}

TEST_CASE("what cannot be restored is said, leaves nothing, and the snapshot serves on",
          "[saved]") {
  SavedFiles saved;
  SaveOne(&saved);
  control::RestoreSpec fewer = Guest::SpecOf(saved);
  fewer.disks.pop_back();
  CheckRefused(std::move(fewer));
  control::RestoreSpec other = Guest::SpecOf(saved);
  other.disks[1].serial = "another";
  CheckRefused(std::move(other));
  control::RestoreSpec writable = Guest::SpecOf(saved);
  writable.disks[2].read_only = false;
  CheckRefused(std::move(writable));
  // Half of the state, and none.
  for (const bool half : {true, false}) {
    SavedFiles cut;
    const off_t size = half ? lseek(saved.state.get(), 0, SEEK_END) / 2 : 0;
    std::string bytes(static_cast<size_t>(size), '\0');
    REQUIRE(pread(saved.state.get(), bytes.data(), bytes.size(), 0) == size);
    REQUIRE(write(cut.state.get(), bytes.data(), bytes.size()) == size);
    REQUIRE(ftruncate(cut.memory.get(), off_t{kMemoryMib} << 20) == 0);
    cut.Seal();
    control::RestoreSpec damaged = Guest::SpecOf(cut);
    CheckRefused(std::move(damaged));
  }
  const std::unique_ptr<Guest> good = Guest::Restore(saved);
  CHECK(good->Shell("cat /tmp/kept") == kKept);
}

// One machine's whole way.
void Round() {
  SavedFiles saved;
  {
    const std::unique_ptr<Guest> guest = Guest::Boot(/*to_be_saved=*/true);
    guest->Park();
    REQUIRE(guest->machine().Pause().ok());
    REQUIRE(guest->machine().Save(saved.state.get(), saved.memory.get()).ok());
  }
  saved.Seal();
  Guest::Restore(saved);
}

void PrintGrowth(const std::string& who, const Footprint& before, const Footprint& after) {
  constexpr double kMib = 1 << 20;
  std::cout << "    " << who << ": resident " << static_cast<double>(before.resident_bytes) / kMib
            << " MiB, then " << static_cast<double>(after.resident_bytes) / kMib << "; descriptors "
            << before.descriptors << ", then " << after.descriptors << "; threads "
            << before.threads << ", then " << after.threads << "; zombies " << after.zombies
            << std::endl;
}

TEST_CASE("machines made, saved, restored and destroyed leave nothing in whoever runs them",
          "[saved]") {
  World& world = World::Get();
  const auto look = [&world](pid_t pid) {
    world.RequireNoMachine();
    Await("no zombie", [pid] { return FootprintOf(pid).zombies == 0; });
    return FootprintOf(pid);
  };
  for (int i = 0; i < kFirstRounds; ++i) Round();
  const Footprint server = look(world.server()), ours = look(getpid());
  for (int i = 0; i < world.rounds(); ++i) Round();
  for (const auto& [who, pid, before] : {std::tuple("the server", world.server(), server),
                                         std::tuple("hearthd's side", getpid(), ours)}) {
    // What goes with a machine may take a moment longer than the machine.
    Await(absl::StrCat("the descriptors of ", who), [pid = pid, before = before] {
      return FootprintOf(pid).descriptors <= before.descriptors;
    });
    const Footprint after = look(pid);
    INFO(who << " after " << world.rounds() << " rounds");
    PrintGrowth(who, before, after);
    CHECK(after.descriptors == before.descriptors);
    CHECK(after.threads <= before.threads);
    CHECK(after.zombies == 0);
    CHECK(static_cast<int64_t>(after.resident_bytes) <=
          static_cast<int64_t>(before.resident_bytes) + kMostGrowthBytes);
  }
  std::cout << "    " << world.rounds() << " machines made, saved, restored and destroyed"
            << std::endl;
}

}  // namespace
}  // namespace hearth::conformance
