// SPDX-License-Identifier: Apache-2.0
// How a version's snapshot is replaced: by new images, by a rebuild.
#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "control-plane/node/testing/snapshot_fixture.h"

namespace hearth::control {
namespace {

using hearth::v1::Snapshot;

TEST_CASE("snapshots: new images are swapped in under load without a failed or a cold request") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  const VersionPtr old_version = WithRuntime(fixture.default_version, "old");
  const VersionPtr new_version = WithRuntime(fixture.default_version, "new");
  fixture.default_version = old_version;
  REQUIRE(Prepare(fixture).ok());
  const std::string old_snapshot = fixture.node().SnapshotOf(kVersion);
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);

  // A node that knows the old images from its disk, as after a restart.
  FakeImageKeeper keeper;
  NodeFixture next;
  next.disk = fixture.disk;
  next.WithSnapshots();
  next.config.images = &keeper;
  next.config.memory_capacity_mib = 8 * (128 + 8);
  std::atomic<bool> old_disk{false};
  next.world->on_restore = [&](const RestoreSpec& spec) {
    if (spec.disks.at(1).path == "/kept/old") old_disk = true;
  };
  LocalNode& node = next.node();
  std::atomic<bool> stop{false};
  std::atomic<int> served{0}, bad{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        StringSink sink;
        const auto report = next.Invoke("x", &sink, new_version);
        const bool good = report.ok() && report->invocation.outcome() == hearth::v1::SUCCEEDED &&
                          report->invocation.start_kind() != hearth::v1::COLD;
        ++(good ? served : bad);
      }
    });
  }
  while (served < 10) std::this_thread::yield();
  node.Refresh(new_version);
  const Snapshot fresh = AwaitSnapshot(next, Snapshot::READY, old_snapshot);
  const int then = served;
  while (served < then + 10) std::this_thread::yield();
  stop = true;
  for (std::thread& client : clients) client.join();
  CHECK(bad == 0);
  CHECK(old_disk);
  CHECK(fresh.images().runtime() == "new");
  AwaitOneStored(next);
  CHECK(next.world->booted == 1);  // The template.
  // What ran on the old images has given way.
  for (const auto& instance : node.ListInstances()) {
    if (instance.state() != hearth::v1::Instance::STOPPING) {
      CHECK(instance.images().runtime() == "new");
    }
  }
}

TEST_CASE(
    "snapshots: an instance that a swap finds half restored gives way when it is given back") {
  FakeImageKeeper keeper;
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.default_version = WithRuntime(fixture.default_version, "old");
  REQUIRE(Prepare(fixture).ok());
  absl::Notification loaded, go_on;
  std::atomic<bool> is_first{true};
  NodeFixture next;
  next.disk = fixture.disk;
  next.WithSnapshots();
  next.config.images = &keeper;
  next.default_version = WithRuntime(fixture.default_version, "new");
  next.disk->on_load = [&] {
    if (!is_first.exchange(false)) return;
    loaded.Notify();
    go_on.WaitForNotification();
  };
  LocalNode& node = next.node();
  hearth::v1::StartKind start = hearth::v1::START_KIND_UNSPECIFIED;
  std::thread client([&] {
    StringSink sink;
    const auto report = next.Invoke("x", &sink);
    if (report.ok()) start = report->invocation.start_kind();
  });
  loaded.WaitForNotification();
  REQUIRE(node.RebuildSnapshot(next.default_version, nullptr, Cancellation()).ok());
  go_on.Notify();
  client.join();
  CHECK(start == hearth::v1::RESTORED);          // From the old one, which it had.
  CHECK(StartOf(next) == hearth::v1::RESTORED);  // And does not serve again.
  CHECK(StartOf(next) == hearth::v1::WARM);
}

TEST_CASE("snapshots: a request that holds a version as it was before a patch does not undo it") {
  FakeImageKeeper keeper;
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.images = &keeper;
  const VersionPtr old_version = WithRuntime(fixture.default_version, "old");
  const VersionPtr new_version = WithRuntime(fixture.default_version, "new");
  fixture.default_version = new_version;
  REQUIRE(Prepare(fixture).ok());
  LocalNode& node = fixture.node();
  node.Refresh(new_version);
  const std::string name = node.SnapshotOf(kVersion);
  CHECK(StartOf(fixture, old_version) == hearth::v1::RESTORED);
  const std::vector<Snapshot> snapshots = node.ListSnapshots();
  REQUIRE(snapshots.size() == 1);
  CHECK(snapshots[0].name() == name);
  CHECK(snapshots[0].state() == Snapshot::READY);
  // Nor does a rebuild that was asked for before: it is replaced, and the instance stays.
  const auto rebuilt = node.RebuildSnapshot(old_version, nullptr, Cancellation());
  REQUIRE(rebuilt.ok());
  CHECK(rebuilt->state() == Snapshot::OUTDATED);
  CHECK(StartOf(fixture, new_version) == hearth::v1::WARM);
  fixture.node().Drain("", false).IgnoreError();
  CHECK(StartOf(fixture, new_version) == hearth::v1::RESTORED);
  CHECK(AwaitSnapshot(fixture, Snapshot::READY).images().runtime() == "new");
}

TEST_CASE("snapshots: after a new kernel or agent new ones are made from it, and what ran goes") {
  FakeImageKeeper keeper;
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.images = &keeper;
  auto before = std::make_shared<VersionDescription>(*fixture.default_version);
  before->kernel = {"/kernel", "kernel-1"};
  before->agent = {"/agent", "agent-1"};
  auto after = std::make_shared<VersionDescription>(*before);
  std::string detail;
  SECTION("kernel") {
    after->kernel = {"/new-kernel", "kernel-2"};
    detail = "made from another kernel";
  }
  SECTION("agent") {
    after->agent = {"/new-agent", "agent-2"};
    detail = "made from another agent";
  }
  fixture.default_version = before;
  absl::Notification building, build;
  bool is_new = false;
  fixture.world->on_create = [&](const MachineSpec& spec) {
    if (spec.kernel_path == before->kernel.path && spec.disks[0].path == before->agent.path) return;
    is_new = spec.kernel_path == after->kernel.path && spec.disks[0].path == after->agent.path;
    building.Notify();
    build.WaitForNotification();
  };
  REQUIRE(Prepare(fixture).ok());
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  LocalNode& node = fixture.node();
  node.Refresh(after);
  building.WaitForNotification();
  CHECK(is_new);
  const Snapshot old = AwaitSnapshot(fixture, Snapshot::OUTDATED);
  CHECK(old.detail() == detail);
  CHECK(StartOf(fixture, after) == hearth::v1::WARM);  // The old one serves.
  build.Notify();
  const Snapshot made = AwaitSnapshot(fixture, Snapshot::READY, old.name());
  CHECK(made.images().kernel() == after->kernel.digest);
  CHECK(made.images().agent() == after->agent.digest);
  AwaitInstances(fixture, 0);
  CHECK(StartOf(fixture, after) == hearth::v1::RESTORED);
  CHECK(node.ListInstances().at(0).images().agent() == after->agent.digest);
}

TEST_CASE(
    "snapshots: one of another machine or VMM is refused by name and made anew at the start") {
  const bool is_used_first = GENERATE(false, true);
  NodeFixture made_on;
  made_on.WithSnapshots();
  made_on.config.host.set_microcode("0x1");
  made_on.config.host.set_vmm_version("1.0");
  REQUIRE(Prepare(made_on).ok());
  const std::string old = made_on.node().SnapshotOf(kVersion);

  NodeFixture here;
  here.disk = made_on.disk;
  here.WithSnapshots();
  here.config.host.set_microcode("0x1");
  here.config.host.set_vmm_version("1.0");
  std::string named;
  SECTION("microcode") {
    here.config.host.set_microcode("0x2");
    named = "microcode 0x2 here, 0x1 in the snapshot";
  }
  SECTION("CPU model") {
    here.config.host.set_cpu_model("another");
    named = "CPU model another here, (none) in the snapshot";
  }
  SECTION("VMM") {
    here.config.host.set_vmm_version("1.1");
    named = "VMM version 1.1 here, 1.0 in the snapshot";
  }
  const Snapshot refused = here.node().ListSnapshots().at(0);
  CHECK(refused.state() == Snapshot::DAMAGED);
  CHECK(absl::StrContains(refused.detail(), named));
  if (is_used_first) {
    CHECK(StartOf(here) == hearth::v1::COLD);
  } else {
    here.node().Refresh(here.default_version);
  }
  AwaitSnapshot(here, Snapshot::READY, old);
  AwaitOneStored(here);
  here.node().Drain(kVersion, false).IgnoreError();
  CHECK(StartOf(here) == hearth::v1::RESTORED);
}

TEST_CASE("snapshots: a VMM that was updated alone is noticed, at the start and later") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.host.set_vmm_version("9.9");  // What this process is of.
  fixture.world->vmm_version = "1.0";
  REQUIRE(Prepare(fixture).ok());
  const Snapshot old = fixture.node().ListSnapshots().at(0);
  CHECK(old.host().vmm_version() == "1.0");
  SECTION("by the next hearthd") {
    NodeFixture next;
    next.disk = fixture.disk;
    next.WithSnapshots();
    next.config.host.set_vmm_version("9.9");
    next.world->vmm_version = "1.1";
    const Snapshot refused = next.node().ListSnapshots().at(0);
    CHECK(refused.state() == Snapshot::DAMAGED);
    CHECK(absl::StrContains(refused.detail(), "VMM version 1.1 here, 1.0 in the snapshot"));
  }
  SECTION("by the next instance") {
    fixture.world->vmm_version = "1.1";
    CHECK(StartOf(fixture) == hearth::v1::COLD);
    const Snapshot made = AwaitSnapshot(fixture, Snapshot::READY, old.name());
    CHECK(made.host().vmm_version() == "1.1");
    fixture.node().Drain(kVersion, false).IgnoreError();
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  }
}

TEST_CASE("snapshots: one that is outdated says what of it is, and serves") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.default_version = WithRuntime(fixture.default_version, "old");
  REQUIRE(Prepare(fixture).ok());
  fixture.world->save_fails = true;
  fixture.node().Refresh(WithRuntime(fixture.default_version, "new"));
  const Snapshot outdated = AwaitSnapshot(fixture, Snapshot::OUTDATED);
  CHECK(outdated.detail() == "made from another runtime");
  CHECK(fixture.node().SnapshotOf(kVersion) == outdated.name());
}

TEST_CASE("snapshots: one whose image is gone, or another, is refused, and the image named") {
  const bool keeps = GENERATE(false, true);
  FakeImageKeeper keeper;
  keeper.gone = "sha256:old";
  NodeFixture fixture;
  fixture.WithSnapshots();
  if (keeps) fixture.config.images = &keeper;
  auto before = std::make_shared<VersionDescription>(*fixture.default_version);
  auto after = std::make_shared<VersionDescription>(*fixture.default_version);
  std::string named;
  SECTION("the agent's") {
    before->agent = {"/agent", "sha256:old"};
    after->agent = {"/agent", "sha256:new"};
    named = "the agent image that it was made from, sha256:old";
  }
  SECTION("the runtime's") {
    before->runtime.image.digest = "sha256:old";
    after->runtime.image.digest = "sha256:new";
    named = "the runtime image that it was made from, sha256:old";
  }
  SECTION("the code's") {
    before->code_disk.digest = "sha256:old";
    after->code_disk.digest = "sha256:new";
    named = "the code image sha256:old, and its version has sha256:new";
  }
  fixture.default_version = before;
  REQUIRE(Prepare(fixture).ok());
  fixture.world->save_fails = true;  // So that no other takes its place.
  CHECK(StartOf(fixture, after) == hearth::v1::COLD);
  CHECK(absl::StrContains(AwaitSnapshot(fixture, Snapshot::DAMAGED).detail(), named));
}

TEST_CASE("snapshots: a rebuild serves in place of the old one, and only one is made at a time") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  const std::string old = fixture.node().SnapshotOf(kVersion);
  LocalNode& node = fixture.node();
  absl::Notification publishing, go_on;
  fixture.disk->on_publish = [&] {
    publishing.Notify();
    go_on.WaitForNotification();
  };
  absl::StatusOr<Snapshot> rebuilt = absl::UnknownError("");
  std::thread builder(
      [&] { rebuilt = node.RebuildSnapshot(fixture.default_version, nullptr, Cancellation()); });
  publishing.WaitForNotification();
  CHECK(node.RebuildSnapshot(fixture.default_version, nullptr, Cancellation()).status().code() ==
        absl::StatusCode::kFailedPrecondition);
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);  // From the old one.
  CHECK(node.SnapshotOf(kVersion) == old);
  bool listed = false;
  for (const Snapshot& one : node.ListSnapshots()) listed |= one.state() == Snapshot::BUILDING;
  CHECK(listed);
  go_on.Notify();
  builder.join();
  REQUIRE(rebuilt.ok());
  CHECK(rebuilt->name() != old);
  CHECK(node.SnapshotOf(kVersion) == rebuilt->name());
  CHECK(fixture.disk->size() == 1);
}

}  // namespace
}  // namespace hearth::control
