// SPDX-License-Identifier: Apache-2.0
// What an agent that fails, lies or attacks gets: a clear status or outcome, and its machine ended.
#include <catch2/catch.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "control-plane/node/testing/node_fixture.h"
#include "wire/frame.h"

namespace hearth::control {
namespace {

std::string RawFrame(const agent::v1::Frame& frame) {
  std::string bytes;
  REQUIRE(wire::AppendFrame(frame.SerializeAsString(), wire::kMaxAgentFrameBytes, &bytes).ok());
  return bytes;
}

// After a bad end nothing of the instance is left, and the node still serves.
void CheckGone(NodeFixture& fixture) {
  fixture.node().Drain("", false).IgnoreError();
  CHECK(fixture.world->alive == 0);
  CHECK(fixture.node().ListInstances().empty());
}

TEST_CASE("hostile agent: one of an unknown version is refused with both versions named") {
  FakeScript script;
  script.versions = {7, 9};
  NodeFixture fixture(script);
  StringSink sink;
  const absl::Status status = fixture.Invoke("x", &sink).status();
  INFO(status);
  CHECK(status.code() == absl::StatusCode::kUnavailable);
  CHECK(absl::StrContains(status.message(), "7"));
  CHECK(absl::StrContains(status.message(), "hearth.agent.v1"));
  CheckGone(fixture);
}

TEST_CASE("hostile agent: garbage instead of Hello ends the boot") {
  FakeScript script;
  script.instead_of_hello = std::string(100, '\xFF');
  NodeFixture fixture(script);
  StringSink sink;
  CHECK(fixture.Invoke("x", &sink).status().code() == absl::StatusCode::kUnavailable);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: one that never connects or never answers ends the boot at its deadline") {
  FakeScript script;
  SECTION("never connects") { script.never_connects = true; }
  SECTION("never says Hello") { script.instead_of_hello = std::string(1, '\0'); }
  SECTION("never answers ConfigureInstance") { script.answers_configure = false; }
  NodeFixture fixture(script);
  fixture.config.boot_timeout = absl::Milliseconds(20);
  StringSink sink;
  CHECK(fixture.Invoke("x", &sink).status().code() == absl::StatusCode::kUnavailable);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: one that never answers an invocation is ended at the deadline") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer;
    answer.never = true;
    return answer;
  };
  NodeFixture fixture(script);
  fixture.config.timeout_grace = absl::Milliseconds(10);
  StringSink sink;
  const auto report = fixture.Invoke(
      "x", &sink, MakeVersion("tenants/t/functions/f/versions/1", 128, absl::Milliseconds(10)));
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::TIMED_OUT);
  CHECK(report->invocation.error().type() == "Sandbox.TimedOut");
  CHECK(report->invocation.usage().host().wall_ns() > 0);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: one that stops reading is ended at the deadline") {
  FakeScript script;
  script.stops_reading_at_invoke = true;
  NodeFixture fixture(script);
  fixture.config.timeout_grace = absl::Milliseconds(10);
  StringSink sink;
  const auto report =
      fixture.Invoke(std::string(6 * 1024 * 1024, 'x'), &sink,
                     MakeVersion("tenants/t/functions/f/versions/1", 128, absl::Milliseconds(10)));
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::TIMED_OUT);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: it used no more than its host gave it, whatever it claims") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer = Succeed("");
    agent::v1::ProcessUsage& claimed = *answer.result.mutable_usage();
    claimed.set_wall_ns(~uint64_t{0});
    claimed.set_user_cpu_ns(~uint64_t{0});
    claimed.set_system_cpu_ns(~uint64_t{0});
    claimed.set_peak_memory_bytes(~uint64_t{0});
    claimed.set_read_bytes(~uint64_t{0});
    claimed.set_written_bytes(~uint64_t{0});
    return answer;
  };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  const hearth::v1::HostUsage& host = report->invocation.usage().host();
  const hearth::v1::GuestUsage& guest = report->invocation.usage().guest();
  CHECK(guest.wall_ns() == host.wall_ns());
  CHECK(guest.user_cpu_ns() == host.wall_ns());
  CHECK(guest.system_cpu_ns() == host.wall_ns());
  CHECK(guest.peak_memory_bytes() == host.memory_mib() << 20);
  CHECK(guest.read_bytes() == int64_t{1} << 44);
  CHECK(guest.written_bytes() == int64_t{1} << 44);
}

TEST_CASE("hostile agent: a connection closed half-way is a lost instance") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer = Succeed(std::string(1000, 'x'));
    answer.close_after_half = true;
    return answer;
  };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::INSTANCE_LOST);
  CHECK(absl::StrContains(report->invocation.error().message(), "the fake guest reset"));
  CheckGone(fixture);
}

TEST_CASE("hostile agent: a breach of the protocol is a lost instance") {
  FakeScript script;
  SECTION("garbage") {
    script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke&) {
      agent.SendRaw("\x04\0\0\0junk and more of it");
      agent.SendRaw(std::string(64, '\xEE'));
    };
  }
  SECTION("more data than the credit allows") {
    script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke& invoke) {
      agent::v1::Frame frame;
      frame.mutable_stream_data()->set_stream_id(invoke.response_stream());
      frame.mutable_stream_data()->set_data(std::string(wire::kMaxStreamChunkBytes, 'x'));
      for (int i = 0; i < 64; ++i) agent.SendRaw(RawFrame(frame));
    };
  }
  SECTION("data on a stream that does not exist") {
    script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke&) {
      agent::v1::Frame frame;
      frame.mutable_stream_data()->set_stream_id(4711);
      frame.mutable_stream_data()->set_data("x");
      agent.SendRaw(RawFrame(frame));
    };
  }
  SECTION("a reply to a call that was never made") {
    script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke&) {
      agent::v1::Frame frame;
      frame.mutable_reply()->set_id(999);
      agent.SendRaw(RawFrame(frame));
    };
  }
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer;
    answer.never = true;
    return answer;
  };
  NodeFixture fixture(script);

  // Grants no more credit until the machine is gone.
  class HeldSink final : public ResponseSink {
   public:
    explicit HeldSink(FakeWorld* world) : world_(world) {}
    absl::Status Write(std::string) override {
      while (world_->alive > 0) std::this_thread::yield();
      return absl::OkStatus();
    }

   private:
    FakeWorld* const world_;
  } sink(fixture.world.get());
  auto reservation =
      fixture.node().Reserve(fixture.default_version, absl::InfiniteFuture(), Cancellation());
  REQUIRE(reservation.ok());
  InvocationRequest request;
  request.id = "request";
  request.payload = "x";
  const auto report = fixture.node().Invoke(*std::move(reservation), request, sink, Cancellation());
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::INSTANCE_LOST);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: a success without a whole response is a lost instance") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer = Succeed("half of it");
    answer.end_response = false;
    return answer;
  };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::INSTANCE_LOST);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: a response over the limit is a function's error and ends the instance") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    return Succeed(std::string(7 * 1024 * 1024, 'x'));
  };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::FUNCTION_ERROR);
  CHECK(report->invocation.error().type() == "Function.ResponseSizeTooLarge");
  CHECK(sink.bytes.size() <= 6 * 1024 * 1024);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: a flood of log lines is cut and counted, and does not hold the result") {
  FakeScript script;
  script.on_invoke = [](FakeAgent& agent, const agent::v1::Invoke&) {
    agent::v1::Frame frame;
    for (int i = 0; i < 6; ++i) {
      frame.mutable_event()->mutable_log_lines()->add_lines()->set_text(
          std::string(wire::kMaxLogLineBytes, 'x'));
    }
    for (int i = 0; i < 128; ++i) agent.SendRaw(RawFrame(frame));  // 12 MiB.
  };
  NodeFixture fixture(script);
  class Counter final : public NodeObserver {
   public:
    void OnLog(const std::string&, hearth::v1::LogEntry entry) override {
      bytes += entry.text().size();
    }
    std::atomic<size_t> bytes{0};
  } counter;
  fixture.node().Watch(&counter);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::SUCCEEDED);
  fixture.node().Watch(nullptr);
  CHECK(counter.bytes > 0);
  CHECK(counter.bytes < 128 * 6 * wire::kMaxLogLineBytes);
  CheckGone(fixture);
}

TEST_CASE("hostile agent: outcomes are passed on, and what is not reusable is ended") {
  FakeAnswer answer;
  answer.result.set_user_code_started(true);
  hearth::v1::Outcome expected = hearth::v1::OUTCOME_UNSPECIFIED;
  bool reused = false;
  SECTION("out of memory") {
    answer.result.set_outcome(agent::v1::OUTCOME_OUT_OF_MEMORY);
    answer.result.set_reusable(true);  // Not believed.
    expected = hearth::v1::OUT_OF_MEMORY;
  }
  SECTION("timed out") {
    answer.result.set_outcome(agent::v1::OUTCOME_TIMED_OUT);
    expected = hearth::v1::TIMED_OUT;
  }
  SECTION("a plain error") {
    answer.result.set_outcome(agent::v1::OUTCOME_FUNCTION_ERROR);
    answer.result.mutable_error()->set_type("KeyError");
    answer.result.set_reusable(true);
    expected = hearth::v1::FUNCTION_ERROR;
    reused = true;
  }
  SECTION("an unknown outcome") {
    answer.result.set_outcome(static_cast<agent::v1::Outcome>(77));
    expected = hearth::v1::INSTANCE_LOST;
  }
  FakeScript script;
  script.invoke = [answer](const agent::v1::Invoke&, const std::string&) { return answer; };
  NodeFixture fixture(script);
  StringSink sink;
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == expected);
  if (reused) CHECK(report->invocation.error().type() == "KeyError");
  REQUIRE(fixture.Invoke("x", &sink).ok());
  CHECK(fixture.world->created == (reused ? 1 : 2));
}

TEST_CASE("client: one that leaves has its invocation cancelled and its instance ended") {
  absl::Notification arrived;
  FakeScript script;
  script.on_invoke = [&](FakeAgent&, const agent::v1::Invoke&) { arrived.Notify(); };
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    FakeAnswer answer;
    answer.never = true;
    return answer;
  };
  bool confirms = true;
  SECTION("the agent confirms") {}
  SECTION("the agent says that user code had not started") { script.cancelled_had_started = false; }
  SECTION("the agent does not") {
    confirms = false;
    script.answers_cancel = false;
  }
  NodeFixture fixture(script);
  if (!confirms) fixture.config.cancel_grace = absl::Milliseconds(10);
  Cancellation cancellation;
  StringSink sink;
  absl::StatusOr<InvocationReport> report = absl::UnknownError("not run");
  std::thread client([&] { report = fixture.Invoke("x", &sink, nullptr, cancellation); });
  arrived.WaitForNotification();
  cancellation.Cancel();
  client.join();
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() ==
        (confirms ? hearth::v1::FUNCTION_ERROR : hearth::v1::INSTANCE_LOST));
  CHECK(report->invocation.usage().host().wall_ns() > 0);
  CheckGone(fixture);
}

TEST_CASE("client: a sink that fails cancels the invocation") {
  FakeScript script;
  script.invoke = [](const agent::v1::Invoke&, const std::string&) {
    return Succeed(std::string(3 * 1024 * 1024, 'x'));
  };
  SECTION("the agent says that user code had started") {}
  SECTION("the agent says that it had not") { script.cancelled_had_started = false; }
  NodeFixture fixture(script);
  StringSink sink;
  sink.fail = absl::CancelledError("the client left");
  const auto report = fixture.Invoke("x", &sink);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::FUNCTION_ERROR);
  CheckGone(fixture);
}

TEST_CASE("instance: one whose runtime exits while it idles is not used again") {
  FakeScript script;
  script.exits_when_idle = true;
  NodeFixture fixture(script);
  StringSink sink;
  REQUIRE(fixture.Invoke("x", &sink).ok());
  while (fixture.world->alive != 0) std::this_thread::yield();
  const auto second = fixture.Invoke("y", &sink);
  REQUIRE(second.ok());
  CHECK(second->invocation.start_kind() == hearth::v1::COLD);
}

TEST_CASE("instance: one found dead when it is invoked is replaced, by one that gets it all") {
  absl::Notification served, hung_up, loop_held, over;
  FakeScript script;
  script.on_idle = [&](FakeAgent& agent) {
    if (hung_up.HasBeenNotified()) return;
    served.WaitForNotification();
    agent::v1::Frame frame;
    frame.mutable_event()->mutable_log_lines()->add_lines()->set_text("the last words");
    agent.SendRaw(RawFrame(frame));
    loop_held.WaitForNotification();
    agent.HangUp();
    hung_up.Notify();
  };
  NodeFixture fixture(script);
  // Holds the thread that would see the connection end, until another instance is asked for.
  class Holder final : public NodeObserver {
   public:
    Holder(FakeWorld* world, absl::Notification* held, absl::Notification* over)
        : world_(world), held_(held), over_(over) {}
    void OnLog(const std::string&, hearth::v1::LogEntry) override {
      held_->Notify();
      while (world_->created < 2 && !over_->HasBeenNotified()) std::this_thread::yield();
    }

   private:
    FakeWorld* const world_;
    absl::Notification* const held_;
    absl::Notification* const over_;
  } holder(fixture.world.get(), &loop_held, &over);
  // By its timeout the first attempt ends; the second has as long, on a busy machine, too.
  fixture.config.timeout_grace = absl::ZeroDuration();
  fixture.node().Watch(&holder);
  const VersionPtr version = MakeVersion("tenants/t/functions/f/versions/1", 128, absl::Seconds(3));
  StringSink first, second;
  REQUIRE(fixture.Invoke("x", &first, version).ok());
  served.Notify();
  hung_up.WaitForNotification();
  const std::string payload(1024 * 1024, 'y');
  const auto report = fixture.Invoke(payload, &second, version);
  over.Notify();
  fixture.node().Watch(nullptr);
  REQUIRE(report.ok());
  CHECK(report->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK((second.bytes == payload));
}

TEST_CASE("backend: a host without machines is UNAVAILABLE, and serves again when it has some") {
  NodeFixture fixture;
  fixture.world->create_fails = true;
  StringSink sink;
  CHECK(fixture.Invoke("x", &sink).status().code() == absl::StatusCode::kUnavailable);
  fixture.world->create_fails = false;
  CHECK(fixture.Invoke("x", &sink).ok());
}

}  // namespace
}  // namespace hearth::control
