// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/residents.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "control-plane/snapshots/testing/test_store.h"

namespace hearth::control {
namespace {

class FakeSnapshot final : public ResidentSnapshot {
 public:
  FakeSnapshot(uint64_t bytes, std::atomic<int>* alive) : bytes_(bytes), alive_(alive) {
    ++*alive_;
  }
  ~FakeSnapshot() override { --*alive_; }
  const hearth::snapshot::v1::Header& header() const override { return header_; }
  int state() const override { return -1; }
  int memory() const override { return -1; }
  std::shared_ptr<const WorkingSet> working_set() const override { return nullptr; }
  uint32_t recordings() const override { return 0; }
  uint64_t resident_bytes() const override { return bytes_; }

 private:
  hearth::snapshot::v1::Header header_;
  const uint64_t bytes_;
  std::atomic<int>* const alive_;
};

struct World {
  explicit World(uint64_t budget) : residents(std::make_shared<Residents>(budget)) {}
  // Loads it if it is not resident.
  Residents::Snapshot Get(const std::string& uid, uint64_t bytes) {
    residents->Add(uid);
    const auto call = residents->Begin(uid, Residents::Use::kCall);
    auto got = residents->Acquire(uid, [&]() -> absl::StatusOr<Residents::Snapshot> {
      ++loads;
      return std::make_shared<const FakeSnapshot>(bytes, &alive);
    });
    REQUIRE(got.ok());
    return *got;
  }
  bool Resident(const std::string& uid) {
    const bool resident = residents->IsResident(uid);
    CHECK(residents->UsageOf(uid).resident == resident);
    return resident;
  }

  std::atomic<int> alive = 0;
  int loads = 0;
  std::shared_ptr<Residents> residents;
};

}  // namespace

TEST_CASE("residents: the least recently used of those nobody holds go first") {
  World world(100);
  world.Get("a", 40);
  world.Get("b", 40);
  world.Get("a", 40);
  CHECK(world.loads == 2);
  world.Get("c", 40);
  CHECK(world.Resident("a"));
  CHECK_FALSE(world.Resident("b"));
  CHECK(world.Resident("c"));
  CHECK(world.alive == 2);
  CHECK(world.residents->ResidentBytes() == 80);
  const auto held = world.Get("a", 40);
  world.Get("d", 60);
  CHECK(world.Resident("a"));
  CHECK_FALSE(world.Resident("c"));
  CHECK(world.Resident("d"));
  CHECK(world.residents->ResidentBytes() == 100);
}

TEST_CASE(
    "residents: one larger than the budget is shared while held, not kept, and drives none out") {
  World world(100);
  world.Get("a", 60);
  auto large = world.Get("large", 101);
  CHECK(world.Resident("a"));
  CHECK(world.Get("large", 101) == large);
  CHECK(world.loads == 2);
  CHECK(world.residents->UsageOf("large").in_use);
  large.reset();
  CHECK_FALSE(world.Resident("large"));
  CHECK(world.alive == 1);
  World exact(100);
  exact.Get("a", 100);
  CHECK(exact.Resident("a"));
}

TEST_CASE("residents: what did not fit beside those held is kept when it is asked for again") {
  World world(100);
  auto a = world.Get("a", 60);
  auto b = world.Get("b", 60);
  a.reset();
  CHECK(world.Get("b", 60) == b);  // Now it fits: a goes.
  CHECK_FALSE(world.Resident("a"));
  b.reset();
  CHECK(world.Resident("b"));
}

TEST_CASE("residents: eviction frees what nobody holds, as much as is asked") {
  World world(100);
  world.Get("a", 30);
  const auto b = world.Get("b", 30);
  world.Get("c", 30);
  CHECK(world.residents->Evict(0) == 0);
  CHECK(world.residents->Evict(1) == 30);
  CHECK_FALSE(world.Resident("a"));
  CHECK(world.residents->Evict(UINT64_MAX) == 30);
  CHECK(world.Resident("b"));
  CHECK(world.alive == 1);
}

TEST_CASE("residents: a removed one is known no more and its memory goes with the last holder") {
  World world(100);
  auto a = world.Get("a", 30);
  CHECK(absl::IsFailedPrecondition(world.residents->BeginRemove("a", false)));
  REQUIRE(world.residents->BeginRemove("a", true).ok());
  CHECK(absl::IsNotFound(world.residents->Begin("a", Residents::Use::kPin).status()));
  CHECK(absl::IsNotFound(world.residents->BeginRemove("a", true)));
  CHECK(world.residents->Uids().empty());
  world.residents->EndRemove("a", false);
  CHECK(world.residents->Uids().size() == 1);
  REQUIRE(world.residents->BeginRemove("a", true).ok());
  world.residents->EndRemove("a", true);
  CHECK(world.residents->ResidentBytes() == 30);
  a.reset();
  CHECK(world.residents->ResidentBytes() == 0);
  CHECK(world.alive == 0);
}

TEST_CASE("residents: pins and what is held outlive the store") {
  std::atomic<int> alive = 0;
  SnapshotPin pin;
  Residents::Snapshot held;
  {
    World world(100);
    world.Get("a", 30);
    pin = *world.residents->Begin("a", Residents::Use::kPin);
    auto call = world.residents->Begin("a", Residents::Use::kCall);
    held = std::make_shared<const FakeSnapshot>(1, &alive);
    world.residents->Evict(UINT64_MAX);
  }
  CHECK(held->resident_bytes() == 1);
  pin.Release();
  CHECK_FALSE(pin);
}

TEST_CASE("residents: callers who meet while one is loaded all get that one's result") {
  for (const bool fails : {false, true}) {
    World world(100);
    world.residents->Add("a");
    std::atomic<int> loads = 0;
    std::atomic<int> started = 0;
    absl::Notification let_go;
    std::vector<absl::StatusOr<Residents::Snapshot>> results(8, Residents::Snapshot());
    std::vector<std::thread> threads;
    for (auto& result : results) {
      threads.emplace_back([&] {
        const auto call = world.residents->Begin("a", Residents::Use::kCall);
        ++started;
        result = world.residents->Acquire("a", [&]() -> absl::StatusOr<Residents::Snapshot> {
          ++loads;
          let_go.WaitForNotification();
          if (fails) return absl::DataLossError("lost");
          return std::make_shared<const FakeSnapshot>(10, &world.alive);
        });
      });
    }
    // Being loaded, it is not removed.
    while (started < 8) std::this_thread::yield();
    CHECK(Says(world.residents->BeginRemove("a", true), "is being loaded"));
    let_go.Notify();
    for (std::thread& thread : threads) thread.join();
    if (!fails) CHECK(loads == 1);
    for (const auto& result : results) {
      CHECK(result.ok() != fails);
      if (!fails) CHECK(*result == *results[0]);
    }
  }
}

TEST_CASE("snapshots: loading from many threads under a budget that does not hold all") {
  Place place;
  // Two snapshots of 33 pages each with their states fit, the third does not.
  auto store = OpenStore(place, 70 * kTestPage);
  std::set<uint32_t> pages;
  for (uint32_t i = 0; i < 32; ++i) pages.insert(i);
  std::vector<SavedTestMachine> machines;
  std::vector<std::string> uids;
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    machines.emplace_back(seed, pages);
    uids.push_back(PublishUnpinned(store.get(), machines.back()));
  }
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t round = 0; round < 60; ++round) {
        const size_t which = (thread + round) % 3;
        const auto loaded = store->Load(uids[which]);
        std::string page(kTestPage, '\0');
        if (!loaded.ok() ||
            pread((*loaded)->memory(), page.data(), kTestPage, 7 * kTestPage) != kTestPage ||
            page != TestPage(static_cast<uint32_t>(which) + 1, 7)) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  CHECK(store->ResidentBytes() <= 70 * kTestPage);
  CHECK(store->ResidentBytes() > 0);
  CHECK(store->Evict(UINT64_MAX) > 0);
  CHECK(store->ResidentBytes() == 0);
}

}  // namespace hearth::control
