// SPDX-License-Identifier: Apache-2.0
// Which snapshots a node keeps, and what goes when.
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/synchronization/notification.h"
#include "control-plane/node/testing/snapshot_fixture.h"
#include "control-plane/node/version_snapshots.h"

namespace hearth::control {
namespace {

using hearth::v1::Snapshot;

TEST_CASE("snapshots: one of a newer Hearth or that cannot be read stays where it is") {
  const auto disk = std::make_shared<FakeDisk>();
  {
    absl::MutexLock lock(&disk->mutex);
    disk->kept["newer"].header.set_format_version(2);
    disk->kept["other-key"].unreadable = absl::DataLossError("it does not fit its mac");
    disk->kept["bad-sector"].unreadable = absl::UnknownError("Input/output error");
  }
  FakeSnapshotStore store(disk);
  const auto snapshots = VersionSnapshots::Open(&store, {});
  REQUIRE(snapshots.ok());
  CHECK((*snapshots)->List().empty());
  (*snapshots)->Retain({});
  (*snapshots)->Collect(absl::InfiniteFuture());
  CHECK(disk->size() == 3);
}

TEST_CASE("snapshots: one that is deleted serves no more, and its instances run on") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  const std::string name = fixture.node().SnapshotOf(kVersion);
  REQUIRE(fixture.node().DeleteSnapshot(name).ok());
  CHECK(fixture.node().DeleteSnapshot(name).code() == absl::StatusCode::kNotFound);
  CHECK(fixture.disk->size() == 0);
  CHECK(StartOf(fixture) == hearth::v1::WARM);
  fixture.node().Drain(kVersion, false).IgnoreError();
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  AwaitSnapshot(fixture, Snapshot::READY);
}

TEST_CASE("snapshots: a version that is forgotten while its snapshot is made leaves none") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  LocalNode& node = fixture.node();
  absl::Notification publishing, go_on;
  fixture.disk->on_publish = [&] {
    publishing.Notify();
    go_on.WaitForNotification();
  };
  absl::Status status;
  std::thread preparer([&] { status = Prepare(fixture).status(); });
  publishing.WaitForNotification();
  node.ForgetSnapshots("tenants/t/functions/f");
  go_on.Notify();
  preparer.join();
  CHECK_FALSE(status.ok());
  CHECK(fixture.disk->size() == 0);
  CHECK(node.ListSnapshots().empty());
}

TEST_CASE(
    "snapshots: a version that is deleted while an instance of it starts gets none afterwards") {
  absl::Notification publishing, publish, starting, start;
  std::atomic<bool> is_first{true};
  FakeScript script;
  script.on_start = [&](const agent::v1::StartRuntime& runtime) {
    if (runtime.function_name() != "f" || starting.HasBeenNotified()) return;
    starting.Notify();
    start.WaitForNotification();
  };
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  fixture.config.memory_capacity_mib = 2 * (128 + 8);
  fixture.disk->on_publish = [&] {
    if (!is_first.exchange(false)) return;
    publishing.Notify();
    publish.WaitForNotification();
  };
  LocalNode& node = fixture.node();
  // Whoever makes snapshots in the background is busy, so what is asked for waits.
  const VersionPtr other = MakeVersion("tenants/t/functions/other/versions/1");
  auto held = node.Reserve(other, absl::InfiniteFuture(), Cancellation());
  REQUIRE(held.ok());
  publishing.WaitForNotification();
  absl::Status status;
  std::thread client([&] {
    StringSink sink;
    status = fixture.Invoke("x", &sink).status();
  });
  starting.WaitForNotification();
  std::thread deleter([&] {
    node.Drain(kVersion, false).IgnoreError();
    node.ForgetSnapshots(kVersion);
  });
  // No memory is left until the drain has begun; then nothing can be reserved.
  while (node.Reserve(MakeVersion(absl::StrCat(kVersion, "/x")), absl::Now(), Cancellation())
             .status()
             .code() != absl::StatusCode::kUnavailable) {
    std::this_thread::yield();
  }
  start.Notify();
  client.join();
  deleter.join();
  CHECK(status.ok());
  // They are made in the order in which they were asked for: with this one, all are.
  const VersionPtr last = MakeVersion("tenants/t/functions/last/versions/1");
  CHECK(StartOf(fixture, last) == hearth::v1::COLD);
  publish.Notify();
  while (node.SnapshotOf(last->name).empty()) std::this_thread::yield();
  CHECK(node.SnapshotOf(kVersion).empty());
  CHECK(fixture.disk->size() == 2);
}

TEST_CASE("snapshots: what a node finds on its disk it uses, but not what is of no version") {
  auto disk = std::make_shared<FakeDisk>();
  {
    NodeFixture fixture;
    fixture.disk = disk;
    fixture.WithSnapshots();
    auto version = std::make_shared<VersionDescription>(*fixture.default_version);
    version->uid = "uid-1";
    REQUIRE(fixture.node().Prepare(version, nullptr, Cancellation()).ok());
    version =
        std::make_shared<VersionDescription>(*MakeVersion("tenants/t/functions/g/versions/1"));
    version->uid = "uid-2";
    REQUIRE(fixture.node().Prepare(version, nullptr, Cancellation()).ok());
  }
  CHECK(disk->size() == 2);
  NodeFixture fixture;
  fixture.disk = disk;
  fixture.WithSnapshots();
  fixture.node().RetainSnapshots({"uid-1"});
  CHECK(disk->size() == 1);
  auto version = std::make_shared<VersionDescription>(*fixture.default_version);
  version->uid = "uid-1";
  CHECK(StartOf(fixture, version) == hearth::v1::RESTORED);
  // Of the same name, but another version: its snapshot would run other code.
  fixture.node().Drain("", false).IgnoreError();
  version = std::make_shared<VersionDescription>(*version);
  version->uid = "uid-3";
  CHECK(StartOf(fixture, version) == hearth::v1::COLD);
}

TEST_CASE("snapshots: one that nobody used for its time is collected, one in use is not") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.snapshot_idle = absl::ZeroDuration();
  REQUIRE(Prepare(fixture).ok());
  // The node looks every few seconds; a new node looks at once.
  while (fixture.disk->size() != 0) std::this_thread::yield();
  CHECK(fixture.node().ListSnapshots().empty());
}

// What a node finds of one snapshot of `version`, made here and now.
std::unique_ptr<VersionSnapshots> OpenWithOne(const VersionPtr& version, SnapshotStore* store,
                                              FakeDisk& disk) {
  {
    absl::MutexLock lock(&disk.mutex);
    hearth::snapshot::v1::Header& header = disk.kept["one"].header;
    header.set_uid("one");
    header.set_version(version->name);
    header.set_memory_mib(version->memory_mib);
  }
  auto snapshots = VersionSnapshots::Open(store, {});
  REQUIRE(snapshots.ok());
  return *std::move(snapshots);
}

TEST_CASE(
    "snapshots: one that somebody holds is not collected, however long it was not asked for") {
  const VersionPtr version = MakeVersion(kVersion);
  const auto disk = std::make_shared<FakeDisk>();
  FakeSnapshotStore store(disk);
  const auto snapshots = OpenWithOne(version, &store, *disk);
  bool was_resident = false;
  auto held = snapshots->Find(*version, absl::Now(), &was_resident);
  REQUIRE(held != nullptr);
  const absl::Time later = absl::Now() + absl::Hours(1);
  snapshots->Collect(later);
  CHECK(disk->size() == 1);
  CHECK_FALSE(snapshots->NameOf(kVersion).empty());
  held.reset();
  snapshots->Collect(later);
  CHECK(disk->size() == 0);
}

TEST_CASE(
    "snapshots: one that is taken into use while others are looked through is not collected") {
  const VersionPtr version = MakeVersion(kVersion);
  const auto disk = std::make_shared<FakeDisk>();
  FakeSnapshotStore store(disk);
  const auto snapshots = OpenWithOne(version, &store, *disk);
  const absl::Time later = absl::Now() + absl::Hours(1);
  std::shared_ptr<const ResidentSnapshot> held;
  disk->on_list = [&] {
    bool was_resident = false;
    held = snapshots->Find(*version, later, &was_resident);
  };
  snapshots->Collect(later);
  CHECK(held != nullptr);
  CHECK(disk->size() == 1);
  CHECK_FALSE(snapshots->NameOf(kVersion).empty());
}

TEST_CASE("snapshots: VMM processes wait as demand says, and none when memory is short") {
  std::atomic<uint64_t> available{1 << 30};
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.max_waiting_vmms = 2;
  fixture.config.host_memory = [&] { return HostMemory{available, uint64_t{1} << 30}; };
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  CHECK(fixture.world->waiting > 0);
  available = 1 << 20;
  while (fixture.world->waiting != 0) std::this_thread::yield();
  fixture.node().Drain("", false).IgnoreError();
  StartOf(fixture);
  CHECK(fixture.world->waiting == 0);
  CHECK(fixture.disk->evictions > 0);
}

TEST_CASE("snapshots: the store on the disk and the node agree on what a snapshot is") {
  char folder[] = "/tmp/hearth-node-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  {
    NodeFixture fixture;
    auto store = SnapshotStore::Open({.directory = folder, .resident_budget_bytes = 1 << 30});
    INFO(store.status());
    REQUIRE(store.ok());
    fixture.config.snapshots = *std::move(store);
    const auto prepared = Prepare(fixture);
    REQUIRE(prepared.ok());
    INFO(prepared->without_because);
    CHECK_FALSE(prepared->snapshot.empty());
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
    const Snapshot snapshot = AwaitSnapshot(fixture, Snapshot::READY);
    CHECK(snapshot.working_set_pages() >= 2);
    CHECK(snapshot.state_bytes() == 5);
    const auto rebuilt =
        fixture.node().RebuildSnapshot(fixture.default_version, nullptr, Cancellation());
    INFO(rebuilt.status());
    REQUIRE(rebuilt.ok());
    CHECK(fixture.node().ListSnapshots().size() == 1);
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("snapshots: a store that is opened with another key serves again with its own") {
  char folder[] = "/tmp/hearth-node-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  const std::filesystem::path key = std::filesystem::path(folder) / "key";
  const std::filesystem::path kept = std::filesystem::path(folder) / "key.kept";
  const auto open = [&](NodeFixture& fixture) {
    auto store = SnapshotStore::Open({.directory = folder, .resident_budget_bytes = 1 << 30});
    INFO(store.status());
    REQUIRE(store.ok());
    fixture.config.snapshots = *std::move(store);
  };
  std::string name;
  {
    NodeFixture fixture;
    open(fixture);
    REQUIRE(Prepare(fixture).ok());
    name = fixture.node().SnapshotOf(kVersion);
  }
  std::filesystem::copy_file(key, kept);
  std::filesystem::permissions(kept, std::filesystem::perms(0600));
  std::ofstream(key, std::ios::binary) << std::string(32, 'k');
  {
    NodeFixture fixture;
    open(fixture);
    CHECK(fixture.node().ListSnapshots().empty());
    CHECK(StartOf(fixture) == hearth::v1::COLD);
    AwaitSnapshot(fixture, Snapshot::READY);  // One of the new key, beside the other.
  }
  std::filesystem::rename(kept, key);
  {
    NodeFixture fixture;
    open(fixture);
    CHECK(fixture.node().SnapshotOf(kVersion) == name);
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace hearth::control
