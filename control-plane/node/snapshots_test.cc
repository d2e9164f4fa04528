// SPDX-License-Identifier: Apache-2.0
// A node with snapshots: fake machines, a fake store.
#include <algorithm>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "control-plane/node/testing/snapshot_fixture.h"

namespace hearth::control {
namespace {

using hearth::v1::Snapshot;

TEST_CASE(
    "snapshots: a prepared version's first instance is restored, from a snapshot of its own") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  std::vector<std::pair<PrepareStage, int>> stages;
  const auto prepared = fixture.node().Prepare(
      fixture.default_version,
      [&](PrepareStage stage, int percent) {
        stages.push_back({stage, percent});
      },
      Cancellation());
  REQUIRE(prepared.ok());
  CHECK(prepared->snapshot == absl::StrCat(kVersion, "/snapshots/snapshot-001"));
  CHECK(prepared->without_because.ok());
  CHECK(stages.front() == std::pair(PrepareStage::kBoot, 0));
  CHECK(stages.back() == std::pair(PrepareStage::kSnapshot, 100));
  CHECK(fixture.world->booted == 1);
  CHECK(fixture.world->restored == 1);  // To record the working set.
  CHECK(fixture.disk->Recordings() == 1);
  AwaitInstances(fixture, 0);  // Neither is left to the pool.

  StringSink sink;
  const auto report = fixture.Invoke("payload", &sink);
  REQUIRE(report.ok());
  CHECK(sink.bytes == "payload");
  const hearth::v1::Invocation& invocation = report->invocation;
  CHECK(invocation.start_kind() == hearth::v1::RESTORED);
  CHECK(absl::StartsWith(invocation.guest_boot_id(), "restored-"));
  CHECK(absl::EndsWith(invocation.instance(), invocation.guest_boot_id().substr(9)));
  CHECK(invocation.timing().has_restore());
  CHECK(invocation.timing().boot().nanos() == 0);
  CHECK(StartOf(fixture) == hearth::v1::WARM);

  const Snapshot snapshot = fixture.node().ListSnapshots().at(0);
  CHECK(snapshot.name() == prepared->snapshot);
  CHECK(snapshot.state() == Snapshot::READY);
  CHECK(snapshot.restores() == 1);  // Of those that were to serve.
  CHECK(snapshot.memory_mib() == 128);
  CHECK(snapshot.cpu_duration().nanos() > 0);
  {
    absl::MutexLock lock(&fixture.disk->mutex);
    const auto& devices = fixture.disk->kept.begin()->second.header.devices();
    CHECK(std::vector<std::string>(devices.begin(), devices.end()) ==
          std::vector<std::string>{"serial", "block agent", "block runtime", "block code",
                                   "entropy", "vsock"});
  }
  CHECK(fixture.node().SnapshotOf(kVersion) == prepared->snapshot);
  CHECK(fixture.node().ListInstances().at(0).start_kind() == hearth::v1::RESTORED);
}

TEST_CASE("snapshots: only the runtime of a template is told that it is to be snapshotted") {
  absl::Mutex mutex;
  std::vector<bool> told;
  FakeScript script;
  script.on_start = [&](const agent::v1::StartRuntime& start) {
    absl::MutexLock lock(&mutex);
    told.push_back(start.snapshot());
  };
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  fixture.world->failing_restores = 1;
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  absl::MutexLock lock(&mutex);
  CHECK(told == std::vector<bool>{true, false});
}

TEST_CASE("snapshots: every restored instance gets an identity, entropy and time of its own") {
  absl::Mutex mutex;
  std::vector<agent::v1::RestoreInstance> restores;
  FakeScript script;
  script.on_restore = [&](const agent::v1::RestoreInstance& restore) {
    absl::MutexLock lock(&mutex);
    restores.push_back(restore);
  };
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  auto version = std::make_shared<VersionDescription>(*fixture.default_version);
  version->environment["A"] = "b";
  fixture.default_version = version;
  REQUIRE(Prepare(fixture).ok());
  {
    auto first = fixture.node().Reserve(version, absl::InfiniteFuture(), Cancellation());
    auto second = fixture.node().Reserve(version, absl::InfiniteFuture(), Cancellation());
    REQUIRE(first.ok());
    REQUIRE(second.ok());
  }
  absl::MutexLock lock(&mutex);
  REQUIRE(restores.size() == 2);
  std::set<std::string> ids, hostnames, entropies;
  for (const auto& restore : restores) {
    ids.insert(restore.instance_id());
    hostnames.insert(restore.hostname());
    entropies.insert(restore.entropy());
    CHECK(restore.entropy().size() == 256);
    CHECK(restore.wall_clock_unix_ns() > absl::ToUnixNanos(absl::Now() - absl::Hours(1)));
    CHECK(restore.environment().at("A") == "b");
    CHECK(restore.hook_timeout_ms() == 10'000);
  }
  CHECK(ids.size() == 2);
  CHECK(hostnames.size() == 2);
  CHECK(entropies.size() == 2);
}

TEST_CASE("snapshots: secrets and an instance's id are given to instances, never to a template") {
  using Environment = std::map<std::string, std::string>;
  absl::Mutex mutex;
  std::vector<Environment> configured, restored;
  FakeScript script;
  const auto keep = [&](std::vector<Environment>& list) {
    return [&](const auto& call) {
      absl::MutexLock lock(&mutex);
      list.push_back({call.environment().begin(), call.environment().end()});
    };
  };
  script.on_configure = keep(configured);
  script.on_restore = keep(restored);
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  auto version = std::make_shared<VersionDescription>(*fixture.default_version);
  version->environment["A"] = "b";
  version->secrets["TOKEN"] = "hush";
  fixture.default_version = version;
  REQUIRE(Prepare(fixture).ok());
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  fixture.node().Drain("", false).IgnoreError();
  fixture.world->failing_restores = 1;
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  absl::MutexLock lock(&mutex);
  REQUIRE(configured.size() == 2);
  REQUIRE(restored.size() == 1);
  CHECK(configured[0] == Environment{{"A", "b"}});
  for (const Environment& of_instance : {restored[0], configured[1]}) {
    CHECK(of_instance.at("A") == "b");
    CHECK(of_instance.at("TOKEN") == "hush");
    CHECK_FALSE(of_instance.at("HEARTH_INSTANCE_ID").empty());
  }
  CHECK(restored[0].at("HEARTH_INSTANCE_ID") != configured[1].at("HEARTH_INSTANCE_ID"));
}

std::unique_ptr<Reservation> Reserve(NodeFixture& fixture, hearth::v1::StartKind start) {
  auto reserved = fixture.node().Reserve(fixture.default_version, absl::Now() + absl::Seconds(60),
                                         Cancellation());
  REQUIRE(reserved.ok());
  CHECK((*reserved)->start_kind() == start);
  return *std::move(reserved);
}

TEST_CASE("snapshots: of a retired version what is busy goes on, then it and its snapshots go") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  AwaitInstances(fixture, 0);  // The snapshot's trial.
  {
    const auto busy = Reserve(fixture, hearth::v1::RESTORED);
    fixture.node().Retire(kVersion);
    CHECK(fixture.world->alive == 1);
    CHECK(fixture.node().ListSnapshots().size() == 1);
    CHECK(absl::IsUnavailable(
        fixture.node()
            .Reserve(fixture.default_version, absl::InfiniteFuture(), Cancellation())
            .status()));
  }
  AwaitInstances(fixture, 0);
  while (!fixture.node().ListSnapshots().empty()) std::this_thread::yield();
}

TEST_CASE("snapshots: without clones one serves one instance at a time, and others boot") {
  NodeFixture fixture;
  fixture.world->clones = false;
  fixture.WithSnapshots();
  fixture.config.instances_ahead = 0;
  REQUIRE(Prepare(fixture).ok());
  AwaitInstances(fixture, 0);  // The snapshot's trial.
  {
    const auto first = Reserve(fixture, hearth::v1::RESTORED);
    const auto second = Reserve(fixture, hearth::v1::COLD);
    const auto third = Reserve(fixture, hearth::v1::COLD);
  }
  CHECK(fixture.world->alive == 3);
  { const auto warm = Reserve(fixture, hearth::v1::WARM); }
  // Gone, its snapshot serves again.
  fixture.node().Drain("", false).IgnoreError();
  { const auto again = Reserve(fixture, hearth::v1::RESTORED); }
  // So it does when a restore failed, and the boot that took its place is over.
  fixture.node().Drain("", false).IgnoreError();
  fixture.world->failing_restores = 1;
  { const auto booted = Reserve(fixture, hearth::v1::COLD); }
  AwaitInstances(fixture, 1);
  const auto other = Reserve(fixture, hearth::v1::WARM);
  const auto restored = Reserve(fixture, hearth::v1::RESTORED);
}

TEST_CASE(
    "snapshots: without clones, several busy instances have one more booted ahead of demand") {
  NodeFixture fixture;
  fixture.world->clones = false;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  const auto idle = [&] {
    const std::vector<hearth::v1::Instance> instances = fixture.node().ListInstances();
    return std::count_if(instances.begin(), instances.end(), [](const auto& instance) {
      return instance.state() == hearth::v1::Instance::IDLE;
    });
  };
  AwaitInstances(fixture, 0);  // The snapshot's trial.
  const auto first = Reserve(fixture, hearth::v1::RESTORED);
  CHECK(fixture.world->alive == 1);  // One alone needs none.
  const auto second = Reserve(fixture, hearth::v1::COLD);
  while (idle() != 1) std::this_thread::yield();
  const auto third = Reserve(fixture, hearth::v1::WARM);
  while (idle() != 1) std::this_thread::yield();
  const auto fourth = Reserve(fixture, hearth::v1::WARM);
  // No memory is left for a fifth, and nothing is ended for it.
  CHECK(fixture.world->alive == 4);
  CHECK(fixture.world->restored == 2);
}

TEST_CASE("snapshots: the first real invocations refine the working set, so many and no more") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  fixture.config.working_set_recordings = 3;
  REQUIRE(Prepare(fixture).ok());
  const auto start = [&] {
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
    fixture.node().Drain("", false).IgnoreError();
  };
  // Each is asked behind its reply, while the next one is served.
  while (fixture.disk->Recordings() < 3) start();
  const int asked = fixture.world->working_sets;
  for (int i = 0; i < 3; ++i) start();
  CHECK(fixture.world->working_sets == asked);
  CHECK(fixture.disk->Recordings() == 3);
}

TEST_CASE(
    "snapshots: a restore that fails is followed by a cold boot, once, and the client served") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  const std::string snapshot = fixture.node().SnapshotOf(kVersion);
  SECTION("of the moment: the snapshot stays") {
    fixture.world->failing_restores = 1;
    CHECK(StartOf(fixture) == hearth::v1::COLD);
    CHECK(fixture.node().SnapshotOf(kVersion) == snapshot);
    fixture.node().Drain(kVersion, false).IgnoreError();
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  }
  SECTION("three times in a row: the snapshot is DAMAGED and made anew") {
    fixture.world->failing_restores = 3;
    for (int i = 0; i < 3; ++i) {
      CHECK(StartOf(fixture) == hearth::v1::COLD);
      if (i < 2) fixture.node().Drain(kVersion, false).IgnoreError();
    }
    AwaitSnapshot(fixture, Snapshot::READY, snapshot);
    AwaitOneStored(fixture);
  }
  SECTION("late, as on a busy host: the snapshot stays, and goes only after thirty in a row") {
    fixture.world->restore_error = absl::StatusCode::kDeadlineExceeded;
    const auto start = [&] {
      fixture.node().Drain(kVersion, false).IgnoreError();
      return StartOf(fixture);
    };
    const auto late = [&](int times) {
      fixture.world->failing_restores = times;
      for (int i = 0; i < times; ++i) CHECK(start() == hearth::v1::COLD);
    };
    late(29);
    CHECK(fixture.node().SnapshotOf(kVersion) == snapshot);
    CHECK(start() == hearth::v1::RESTORED);
    late(30);
    AwaitSnapshot(fixture, Snapshot::READY, snapshot);
  }
  SECTION("for want of memory, however often: the snapshot stays") {
    fixture.world->restore_error = absl::StatusCode::kResourceExhausted;
    fixture.world->failing_restores = 40;
    for (int i = 0; i < 40; ++i) {
      CHECK(StartOf(fixture) == hearth::v1::COLD);
      fixture.node().Drain(kVersion, false).IgnoreError();
    }
    CHECK(fixture.node().SnapshotOf(kVersion) == snapshot);
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  }
  SECTION("as every boot does, for nobody makes machines: the snapshot stays") {
    fixture.world->failing_restores = 10;
    fixture.world->create_fails = true;
    for (int i = 0; i < 10; ++i) {
      StringSink sink;
      CHECK(fixture.Invoke("x", &sink).status().code() == absl::StatusCode::kUnavailable);
    }
    fixture.world->create_fails = false;
    CHECK(fixture.node().SnapshotOf(kVersion) == snapshot);
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  }
  SECTION("the backend refuses the snapshot: it is DAMAGED and made anew") {
    fixture.world->failing_restores = 1;
    fixture.world->restore_error = absl::StatusCode::kFailedPrecondition;
    CHECK(StartOf(fixture) == hearth::v1::COLD);
    AwaitSnapshot(fixture, Snapshot::READY, snapshot);
  }
  SECTION("the store refuses the snapshot: it is DAMAGED and made anew") {
    fixture.disk->DamageAll();
    CHECK(StartOf(fixture) == hearth::v1::COLD);
    AwaitSnapshot(fixture, Snapshot::READY, snapshot);
    fixture.node().Drain(kVersion, false).IgnoreError();
    CHECK(StartOf(fixture) == hearth::v1::RESTORED);
    AwaitOneStored(fixture);
  }
}

TEST_CASE("snapshots: one that is damaged and cannot be made anew is listed with the reason") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  fixture.disk->DamageAll();
  fixture.world->save_fails = true;
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  while (fixture.world->booted < 3) std::this_thread::yield();
  const Snapshot damaged = AwaitSnapshot(fixture, Snapshot::DAMAGED);
  CHECK(damaged.detail() == "the fake snapshot was altered");
  CHECK(fixture.node().SnapshotOf(kVersion).empty());
  REQUIRE(fixture.node().DeleteSnapshot(damaged.name()).ok());
  CHECK(fixture.disk->size() == 0);
}

TEST_CASE("snapshots: a deployment restores its snapshot, but runs no user code of it") {
  std::atomic<int> unparked{0};
  FakeScript script;
  script.on_restore = [&](const agent::v1::RestoreInstance&) { ++unparked; };
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  REQUIRE(fixture.node().RebuildSnapshot(fixture.default_version, nullptr, Cancellation()).ok());
  CHECK(fixture.world->restored == 2);
  CHECK(unparked == 0);
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);
  CHECK(unparked == 1);
}

TEST_CASE("snapshots: a hook that fails is the function's own failure") {
  FakeScript script;
  bool prepares = false;
  SECTION("before the snapshot") { script.prepared.mutable_error()->set_type("Runtime.HookError"); }
  SECTION("after the restore, which waits for a request") {
    script.restored.mutable_error()->set_type("Runtime.HookError");
    prepares = true;
  }
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  absl::Status status = Prepare(fixture).status();
  CHECK(status.ok() == prepares);
  if (prepares) {
    StringSink sink;
    status = fixture.Invoke("x", &sink).status();
  }
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  hearth::v1::FunctionError error;
  REQUIRE(status.GetPayload(kFunctionErrorPayload).has_value());
  REQUIRE(error.ParseFromString(std::string(*status.GetPayload(kFunctionErrorPayload))));
  CHECK(error.type() == "Runtime.HookError");
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.world->alive == 0);
  CHECK(fixture.disk->size() == (prepares ? 1 : 0));
}

TEST_CASE("snapshots: a version that cannot be saved or stored is ready without a snapshot") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  SECTION("the machine cannot be saved") { fixture.world->save_fails = true; }
  SECTION("the disk is full") { fixture.disk->full = true; }
  SECTION("what was stored cannot be restored") { fixture.world->failing_restores = 1; }
  const auto prepared = Prepare(fixture);
  REQUIRE(prepared.ok());
  CHECK(prepared->snapshot.empty());
  CHECK_FALSE(prepared->without_because.ok());
  CHECK(fixture.disk->size() == 0);
  fixture.world->save_fails = true;  // So that no background build comes in between.
  CHECK(StartOf(fixture) == hearth::v1::COLD);
}

TEST_CASE("snapshots: an invocation tells what its start found ready, and when it came to what") {
  const bool ready = GENERATE(false, true);
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  fixture.disk->resident = ready;
  fixture.world->vmms_wait = ready;
  StringSink sink;
  const auto restored = fixture.Invoke("payload", &sink);
  REQUIRE(restored.ok());
  const hearth::v1::Timing& timing = restored->invocation.timing();
  CHECK(timing.resident() == ready);
  CHECK(timing.waiting_vmm() == ready);
  CHECK(timing.vmm_ready().nanos() == 3000);
  const auto ns = [](const google::protobuf::Duration& duration) {
    return duration.seconds() * 1'000'000'000 + duration.nanos();
  };
  CHECK(ns(timing.handed_over_at()) >= ns(timing.placed_at()));
  CHECK(ns(timing.responded_at()) >= ns(timing.handed_over_at()));
  CHECK(ns(timing.total()) >= ns(timing.responded_at()));
  const auto warm = fixture.Invoke("payload", &sink);
  REQUIRE(warm.ok());
  CHECK_FALSE(warm->invocation.timing().waiting_vmm());
  CHECK_FALSE(warm->invocation.timing().has_vmm_ready());
}

TEST_CASE("snapshots: a version without one is booted, and gets one in the background") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  CHECK(StartOf(fixture) == hearth::v1::COLD);
  AwaitSnapshot(fixture, Snapshot::READY);
  fixture.node().Drain(kVersion, false).IgnoreError();
  CHECK(StartOf(fixture) == hearth::v1::RESTORED);
}

TEST_CASE("snapshots: a prepare that is cancelled leaves nothing behind, at whatever stage") {
  Cancellation cancellation;
  FakeScript script;
  bool while_restored = false, at_the_end = false;
  std::function<void(PrepareStage, int)> progress;
  SECTION("while it boots") {
    script.answers_configure = false;
    progress = [&](PrepareStage, int) { cancellation.Cancel(); };
  }
  SECTION("while it initialises") {
    script.answers_init = false;
    progress = [&](PrepareStage stage, int) {
      if (stage == PrepareStage::kInitialise) cancellation.Cancel();
    };
  }
  SECTION("while its hooks run") {
    script.answers_prepare = false;
    progress = [&](PrepareStage stage, int) {
      if (stage == PrepareStage::kSnapshot) cancellation.Cancel();
    };
  }
  SECTION("while it is stored") {
    progress = [&](PrepareStage stage, int percent) {
      if (stage == PrepareStage::kSnapshot && percent == 30) cancellation.Cancel();
    };
  }
  SECTION("while it is restored for the first time") { while_restored = true; }
  SECTION("at the very end") { at_the_end = true; }
  NodeFixture fixture(script);
  fixture.WithSnapshots();
  if (while_restored) fixture.world->on_restore = [&](const auto&) { cancellation.Cancel(); };
  if (at_the_end) fixture.world->on_working_set = [&] { cancellation.Cancel(); };
  const absl::Status status =
      fixture.node().Prepare(fixture.default_version, progress, cancellation).status();
  CHECK(status.code() == absl::StatusCode::kCancelled);
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.world->alive == 0);
  CHECK(fixture.disk->size() == 0);
  CHECK(fixture.node().ListInstances().empty());
  CHECK(fixture.node().ListSnapshots().empty());
}

TEST_CASE("snapshots: a client that leaves while its instance is restored leaves nothing behind") {
  Cancellation cancellation;
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  fixture.world->on_restore = [&](const RestoreSpec&) { cancellation.Cancel(); };
  const absl::Status status =
      fixture.node()
          .Reserve(fixture.default_version, absl::InfiniteFuture(), cancellation)
          .status();
  CHECK(status.code() == absl::StatusCode::kCancelled);
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.world->alive == 0);
  CHECK(fixture.world->booted == 1);  // No cold boot for who has left.
}

TEST_CASE("snapshots: a drain ends what is being restored, by force or when it is released") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  absl::Notification restoring, go_on;
  std::once_flag first;
  fixture.world->on_restore = [&](const RestoreSpec&) {
    // What asks below whether the drain has begun may be given a restored instance, too: only the
    // client's is held up.
    bool is_client = false;
    std::call_once(first, [&] { is_client = true; });
    if (!is_client) return;
    restoring.Notify();
    go_on.WaitForNotification();
  };
  absl::Status status;
  LocalNode& node = fixture.node();
  std::thread client([&] {
    StringSink sink;
    status = fixture.Invoke("x", &sink).status();
  });
  restoring.WaitForNotification();
  const bool force = GENERATE(false, true);
  std::thread drainer([&] { node.Drain(kVersion, force).IgnoreError(); });
  // The drain has begun when nothing can be reserved any more.
  while (node.Reserve(MakeVersion(absl::StrCat(kVersion, "/x")), absl::Now(), Cancellation())
             .status()
             .code() != absl::StatusCode::kUnavailable) {
    std::this_thread::yield();
  }
  go_on.Notify();
  client.join();
  drainer.join();
  CHECK(status.ok() == !force);
  CHECK(fixture.world->alive == 0);
}

TEST_CASE("snapshots: 200 invocations in parallel share one snapshot") {
  NodeFixture fixture;
  fixture.WithSnapshots();
  REQUIRE(Prepare(fixture).ok());
  LocalNode& node = fixture.node();
  std::atomic<int> right{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back([&, i] {
      StringSink sink;
      const auto report = fixture.Invoke(absl::StrCat(i), &sink);
      if (report.ok() && sink.bytes == absl::StrCat(i) &&
          report->invocation.start_kind() != hearth::v1::COLD) {
        ++right;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  CHECK(right == 200);
  CHECK(fixture.world->booted == 1);
  CHECK(node.ListSnapshots().size() == 1);
}

}  // namespace
}  // namespace hearth::control
