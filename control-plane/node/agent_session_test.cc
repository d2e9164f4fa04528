// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/agent_session.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "control-plane/node/testing/fake_backend.h"

namespace hearth::control {
namespace {

// What a session with these versions comes to, whose agent has those.
absl::Status Meet(wire::VersionRange ours, wire::VersionRange theirs) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  REQUIRE(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
  auto loop = EventLoop::Create();
  REQUIRE(loop.ok());
  std::thread loop_thread([&] { (*loop)->Run().IgnoreError(); });
  FakeScript script;
  script.versions = theirs;
  // Its end is the session's: the agent reads that its connection was closed.
  std::thread agent_thread([&, stream = UniqueFd(ends[1])]() mutable {
    FakeAgent(script, "boot", std::move(stream), UniqueFd(eventfd(0, EFD_CLOEXEC))).Run();
  });
  AgentSessionOptions options;
  options.versions = ours;
  options.on_unusable = [] {};
  const auto session = AgentSession::Start(loop->get(), UniqueFd(ends[0]), std::move(options));
  absl::Status met = session->WaitReady(absl::InfiniteFuture());
  if (met.ok()) {
    agent::v1::Call call;
    call.mutable_configure_instance();
    met = session->Call(std::move(call), absl::InfiniteFuture()).status();
  }
  session->Close(absl::UnavailableError("the test is over"));
  agent_thread.join();
  (*loop)->Stop();
  loop_thread.join();
  return met;
}

TEST_CASE("agent session: an agent of the previous version is served, one older is refused") {
  constexpr uint32_t kCurrent = wire::kAgentMaxVersion + 2;
  const wire::VersionRange ours = {kCurrent - 1, kCurrent};
  CHECK(Meet(ours, {kCurrent, kCurrent}).ok());
  CHECK(Meet(ours, {kCurrent - 1, kCurrent - 1}).ok());
  CHECK(Meet(ours, {kCurrent, kCurrent + 1}).ok());
  const absl::Status older = Meet(ours, {kCurrent - 2, kCurrent - 2});
  CHECK(older.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(older.message(), "too old"));
  const absl::Status newer = Meet(ours, {kCurrent + 1, kCurrent + 2});
  CHECK(newer.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(absl::StrContains(newer.message(), "this side is too old"));
}

}  // namespace
}  // namespace hearth::control
