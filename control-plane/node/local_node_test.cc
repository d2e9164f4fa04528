// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/local_node.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "control-plane/node/testing/node_fixture.h"
#include "google/rpc/error_details.pb.h"
#include "vmm/base/testing/wall_clock.h"

namespace hearth::control {
namespace {

hearth::v1::FunctionError ErrorIn(const absl::Status& status) {
  hearth::v1::FunctionError error;
  const auto payload = status.GetPayload(kFunctionErrorPayload);
  REQUIRE(payload.has_value());
  REQUIRE(error.ParseFromString(std::string(*payload)));
  return error;
}

class Recorder final : public NodeObserver {
 public:
  void OnLog(const std::string& version_name, hearth::v1::LogEntry entry) override {
    absl::MutexLock lock(&mutex);
    CHECK(version_name == entry.version());
    entries.push_back(std::move(entry));
  }
  absl::Mutex mutex;
  std::vector<hearth::v1::LogEntry> entries ABSL_GUARDED_BY(mutex);
};

TEST_CASE("node: the wall clock set while an invocation runs ends nothing and changes no bill") {
  const absl::Duration step = GENERATE(absl::Hours(10), -absl::Hours(10));
  testing::WallClock wall;
  FakeScript script;
  script.on_invoke = [&](FakeAgent&, const agent::v1::Invoke&) { wall.Step(step); };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("one", &sink);
  REQUIRE(report.ok());
  const hearth::v1::Invocation& ran = report->invocation;
  CHECK(ran.outcome() == hearth::v1::SUCCEEDED);
  CHECK(ran.usage().host().wall_ns() > 0);
  CHECK(ran.usage().host().wall_ns() < absl::ToInt64Nanoseconds(absl::Hours(1)));
  for (const auto& duration : {ran.timing().execution(), ran.timing().total(),
                               ran.timing().responded_at(), ran.timing().boot()}) {
    CHECK(duration.seconds() < 3600);
  }
  CHECK(ran.timing().total().nanos() > 0);
  // Both are the wall clock's as it goes now.
  CHECK(absl::AbsDuration(absl::FromUnixSeconds(ran.start_time().seconds()) - absl::Now()) <
        absl::Hours(1));
  CHECK(absl::AbsDuration(absl::FromUnixSeconds(ran.end_time().seconds()) - absl::Now()) <
        absl::Hours(1));
  // What is waited for from then on is not given up, nor waited for longer.
  CHECK(fixture.Invoke("two", &sink).ok());
}

TEST_CASE("node: a machine that is gone when its CPU time is asked for is billed to its end") {
  FakeScript script;
  std::shared_ptr<FakeWorld> world;
  script.invoke = [&](const agent::v1::Invoke&, const std::string&) {
    world->ends_untold = true;
    return Succeed("answered");
  };
  NodeFixture fixture(script);
  world = fixture.world;
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK(report->invocation.usage().host().cpu_ns() > 0);
}

TEST_CASE("node: as many instances as there are descriptors for, and one wherever there are few") {
  CHECK(InstancesWithin(0) == 1);
  CHECK(InstancesWithin(1024) == 96);
  CHECK(InstancesWithin(524'288) == 65'504);
  NodeFixture fixture;
  fixture.config.max_instances = 1;
  fixture.config.queue_limit = 0;
  const auto held =
      fixture.node().Reserve(fixture.default_version, absl::InfiniteFuture(), Cancellation());
  REQUIRE(held.ok());
  StringSink sink;
  CHECK(absl::IsResourceExhausted(fixture.Invoke("x", &sink).status()));
}

TEST_CASE("node: an invocation is served cold, and the next one warm by the same instance") {
  NodeFixture fixture;
  StringSink first_sink, second_sink;
  const auto first = fixture.Invoke("one", &first_sink);
  REQUIRE(first.ok());
  const auto second = fixture.Invoke("two", &second_sink);
  REQUIRE(second.ok());
  CHECK(first_sink.bytes == "one");
  CHECK(second_sink.bytes == "two");
  const hearth::v1::Invocation& cold = first->invocation;
  CHECK(cold.name() == "tenants/t/functions/f/invocations/request-1");
  CHECK(cold.version() == "tenants/t/functions/f/versions/1");
  CHECK(cold.outcome() == hearth::v1::SUCCEEDED);
  CHECK(cold.start_kind() == hearth::v1::COLD);
  CHECK(absl::StartsWith(cold.instance(), "tenants/t/functions/f/instances/"));
  CHECK(absl::StartsWith(cold.guest_boot_id(), "boot-"));
  CHECK(cold.usage().host().memory_mib() == 128);
  CHECK(cold.usage().host().cpu_ns() > 0);
  CHECK(cold.usage().host().request_bytes() == 3);
  CHECK(cold.usage().host().response_bytes() == 3);
  CHECK(second->invocation.start_kind() == hearth::v1::WARM);
  CHECK(second->invocation.instance() == cold.instance());
  CHECK(fixture.world->created == 1);
  const auto listed = fixture.node().ListInstances();
  REQUIRE(listed.size() == 1);
  CHECK(listed[0].served() == 2);
  CHECK(listed[0].state() == hearth::v1::Instance::IDLE);
}

TEST_CASE("node: a payload and a response of 6 MB pass through the credits") {
  NodeFixture fixture;
  std::string payload;
  for (int i = 0; payload.size() < 6 * 1024 * 1024; ++i) absl::StrAppend(&payload, i, ",");
  payload.resize(6 * 1024 * 1024);
  StringSink sink;
  const auto report = fixture.Invoke(payload, &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK((sink.bytes == payload));
}

TEST_CASE("node: a response at the limit is whole, one byte more is the function's error") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string& payload) {
    return Succeed(std::string(limits::kMaxResponseBytes + payload.size(), 'x'));
  };
  NodeFixture fixture(std::move(script));
  StringSink most, over;
  const auto whole = fixture.Invoke("", &most);
  REQUIRE(whole.ok());
  CHECK(whole->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK(most.bytes.size() == limits::kMaxResponseBytes);
  const auto error = fixture.Invoke("1", &over);
  REQUIRE(error.ok());
  CHECK(error->invocation.outcome() == hearth::v1::FUNCTION_ERROR);
  CHECK(over.bytes.size() <= limits::kMaxResponseBytes);
}

TEST_CASE("node: 200 invocations over 4 instances in parallel are neither lost nor mixed up") {
  NodeFixture fixture;
  LocalNode& node = fixture.node();
  absl::Mutex mutex;
  std::set<std::string> instances;
  std::atomic<int> right{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back([&, i] {
      StringSink sink;
      const std::string payload(static_cast<size_t>(1000 + i * 7), static_cast<char>('a' + i % 26));
      const auto report = fixture.Invoke(absl::StrCat(i, payload), &sink);
      if (report.ok() && sink.bytes == absl::StrCat(i, payload)) ++right;
      absl::MutexLock lock(&mutex);
      if (report.ok()) instances.insert(report->invocation.instance());
    });
  }
  for (std::thread& client : clients) client.join();
  CHECK(right == 200);
  CHECK(instances.size() <= 4);
  CHECK(fixture.world->most_alive <= 4);
  int64_t served = 0;
  for (const auto& instance : node.ListInstances()) served += instance.served();
  CHECK(served == 200);
}

TEST_CASE("node: a function that fails to initialise is told with its error") {
  FakeScript script;
  script.started.mutable_error()->set_type("Runtime.ImportModuleError");
  script.started.mutable_error()->set_message("no module\x07 named x");
  NodeFixture fixture(script);
  StringSink sink;
  const absl::Status status = fixture.Invoke("x", &sink).status();
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  const hearth::v1::FunctionError error = ErrorIn(status);
  CHECK(error.type() == "Runtime.ImportModuleError");
  CHECK(error.message() == "no module\xEF\xBF\xBD named x");
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.world->alive == 0);
}

TEST_CASE("node: an initialisation that never ends is a function's error") {
  FakeScript script;
  script.answers_init = false;
  NodeFixture fixture(script);
  fixture.config.timeout_grace = absl::Milliseconds(1);
  auto version = std::make_shared<VersionDescription>(*fixture.default_version);
  version->init_timeout = absl::Milliseconds(1);
  const absl::Status status = fixture.node().Prepare(version, nullptr, Cancellation()).status();
  CHECK(status.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(ErrorIn(status).type() == "Sandbox.TimedOut");
  CHECK(fixture.world->alive == 0);
}

TEST_CASE("node: prepare tells its stages and leaves the instance to the pool") {
  NodeFixture fixture;
  std::vector<std::pair<int, int>> stages;
  const auto prepared = fixture.node().Prepare(
      fixture.default_version,
      [&](PrepareStage stage, int percent) {
        stages.push_back({static_cast<int>(stage), percent});
      },
      Cancellation());
  REQUIRE(prepared.ok());
  CHECK(prepared->boot > absl::ZeroDuration());
  const int booting = static_cast<int>(PrepareStage::kBoot);
  const int initializing = static_cast<int>(PrepareStage::kInitialise);
  CHECK(stages == std::vector<std::pair<int, int>>{
                      {booting, 0}, {booting, 100}, {initializing, 0}, {initializing, 100}});
  StringSink sink;
  CHECK(fixture.Invoke("x", &sink)->invocation.start_kind() == hearth::v1::WARM);
}

TEST_CASE("node: a prepare that is cancelled leaves nothing behind") {
  FakeScript script;
  script.answers_init = false;
  NodeFixture fixture(script);
  Cancellation cancellation;
  absl::Status status;
  absl::Notification initialising;
  LocalNode& node = fixture.node();
  std::thread preparer([&] {
    status = node.Prepare(
                     fixture.default_version,
                     [&](PrepareStage stage, int) {
                       if (stage == PrepareStage::kInitialise) initialising.Notify();
                     },
                     cancellation)
                 .status();
  });
  initialising.WaitForNotification();
  cancellation.Cancel();
  preparer.join();
  CHECK(status.code() == absl::StatusCode::kCancelled);
  CHECK(fixture.world->alive == 0);
  CHECK(node.ListInstances().empty());
}

TEST_CASE("node: a full queue refuses with a time to retry after") {
  absl::Notification arrived, go_on;
  FakeScript script;
  script.invoke = [&](const agent::v1::Invoke&, const std::string& payload) {
    if (!arrived.HasBeenNotified()) arrived.Notify();
    go_on.WaitForNotification();
    return Succeed(payload);
  };
  NodeFixture fixture(script);
  fixture.config.memory_capacity_mib = 136;
  fixture.config.queue_limit = 0;
  LocalNode& node = fixture.node();
  std::thread first([&] {
    StringSink sink;
    fixture.Invoke("x", &sink).status().IgnoreError();
  });
  arrived.WaitForNotification();
  const absl::Status refused =
      node.Reserve(fixture.default_version, absl::InfiniteFuture(), Cancellation()).status();
  go_on.Notify();
  first.join();
  CHECK(refused.code() == absl::StatusCode::kResourceExhausted);
  google::rpc::RetryInfo retry;
  REQUIRE(refused.GetPayload(kRetryInfoPayload).has_value());
  REQUIRE(retry.ParseFromString(std::string(*refused.GetPayload(kRetryInfoPayload))));
  CHECK(retry.retry_delay().seconds() > 0);
}

TEST_CASE(
    "node: an instance that cannot resume is replaced by another without the client's notice") {
  NodeFixture fixture;
  fixture.config.idle_pause = absl::ZeroDuration();
  StringSink sink, second_sink;
  const auto first = fixture.Invoke("one", &sink);
  REQUIRE(first.ok());
  while (fixture.world->pauses == 0) std::this_thread::yield();
  fixture.world->resume_fails = true;
  const auto second = fixture.Invoke("two", &second_sink);
  REQUIRE(second.ok());
  CHECK(second_sink.bytes == "two");
  CHECK(second->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK(second->invocation.instance() != first->invocation.instance());
  CHECK(fixture.world->created == 2);
}

TEST_CASE("node: the first invocation after a pause brings the host's clock, the others do not") {
  std::vector<int64_t> clocks;
  FakeScript script;
  script.on_invoke = [&](FakeAgent&, const agent::v1::Invoke& invoke) {
    clocks.push_back(invoke.wall_clock_unix_ns());
  };
  NodeFixture fixture(std::move(script));
  fixture.config.idle_pause = absl::ZeroDuration();
  StringSink sink;
  REQUIRE(fixture.Invoke("one", &sink).ok());
  while (fixture.world->pauses == 0) std::this_thread::yield();
  const int64_t before = absl::ToUnixNanos(absl::Now());
  REQUIRE(fixture.Invoke("two", &sink).ok());
  REQUIRE(fixture.world->created == 1);
  REQUIRE(clocks.size() == 2);
  CHECK(clocks[0] == 0);
  CHECK(clocks[1] >= before);
  CHECK(clocks[1] <= absl::ToUnixNanos(absl::Now()));
}

TEST_CASE("node: an invocation of an instance that was not paused brings no clock") {
  std::vector<int64_t> clocks;
  FakeScript script;
  script.on_invoke = [&](FakeAgent&, const agent::v1::Invoke& invoke) {
    clocks.push_back(invoke.wall_clock_unix_ns());
  };
  NodeFixture fixture(std::move(script));
  StringSink sink;
  REQUIRE(fixture.Invoke("one", &sink).ok());
  REQUIRE(fixture.Invoke("two", &sink).ok());
  CHECK(clocks == std::vector<int64_t>{0, 0});
}

TEST_CASE("node: what idles is ended after its time") {
  NodeFixture fixture;
  fixture.config.idle_pause = absl::ZeroDuration();
  fixture.config.idle_stop = absl::Milliseconds(1);
  StringSink sink;
  REQUIRE(fixture.Invoke("one", &sink).ok());
  while (fixture.world->alive != 0) std::this_thread::yield();
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.node().ListInstances().empty());
}

TEST_CASE("node: drain ends the instances below a name and spares its neighbours") {
  NodeFixture fixture;
  StringSink sink;
  REQUIRE(fixture.Invoke("x", &sink, MakeVersion("tenants/t/functions/f/versions/1")).ok());
  REQUIRE(fixture.Invoke("x", &sink, MakeVersion("tenants/t/functions/f/versions/10")).ok());
  CHECK(fixture.world->alive == 2);
  REQUIRE(fixture.node().Drain("tenants/t/functions/f/versions/1", false).ok());
  CHECK(fixture.world->alive == 1);
  CHECK(fixture.node().ListInstances().at(0).version() == "tenants/t/functions/f/versions/10");
}

TEST_CASE("node: log lines come before the result, named by their invocation and made clean") {
  FakeScript script;
  script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke& invoke) {
    agent::v1::Event event;
    agent::v1::LogLine& line = *event.mutable_log_lines()->add_lines();
    line.set_source(agent::v1::LogLine::SOURCE_STDERR);
    line.set_request_id(invoke.invocation_id());
    line.set_text("hello \xF0\x9F\x94\xA5 \xC0");
    event.mutable_log_lines()->add_lines()->set_request_id("someone else's");
    event.mutable_log_lines()->set_dropped_lines(7);
    agent.SendEvent(event);
  };
  NodeFixture fixture(script);
  Recorder recorder;
  fixture.node().Watch(&recorder);
  StringSink sink;
  REQUIRE(fixture.Invoke("x", &sink).ok());
  fixture.node().Watch(nullptr);
  absl::MutexLock lock(&recorder.mutex);
  REQUIRE(recorder.entries.size() == 2);
  CHECK(recorder.entries[0].text() == "hello \xF0\x9F\x94\xA5 \xEF\xBF\xBD");
  CHECK(recorder.entries[0].invocation() == "tenants/t/functions/f/invocations/request-1");
  CHECK(recorder.entries[0].source() == hearth::v1::LogEntry::STDERR);
  CHECK(recorder.entries[0].dropped() == 7);
  CHECK(recorder.entries[1].invocation().empty());
}

}  // namespace
}  // namespace hearth::control
