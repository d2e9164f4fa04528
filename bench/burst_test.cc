// SPDX-License-Identifier: Apache-2.0
#include "bench/burst.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <limits>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

const auto kQuiet = [](const std::string&) {};

BurstOptions Options(int size, int bursts, double interval_s = 0) {
  BurstOptions options;
  options.call.function = "tenants/default/functions/f";
  options.size = size;
  options.bursts = bursts;
  options.interval_s = interval_s;
  return options;
}

Reply ReplyOf(hearth::v1::StartKind start, double reply_ms) {
  Reply reply;
  reply.reply_ms = reply_ms;
  reply.invocation.set_name("tenants/default/functions/f/invocations/1");
  reply.invocation.set_start_kind(start);
  return reply;
}

TEST_CASE("burst: all invocations of a burst are under way at once, and each burst has them all") {
  constexpr int kSize = 20;
  std::atomic<int> calls{0}, under_way{0};
  absl::Mutex mutex;
  // Answers when a whole burst has arrived; one that sends its calls one by one would wait for
  // ever.
  const auto invoke = [&](const Call& call) -> absl::StatusOr<Reply> {
    CHECK(call.function == "tenants/default/functions/f");
    under_way.fetch_add(1);
    const int number = calls.fetch_add(1);
    absl::MutexLock lock(&mutex);
    const int whole = (number / kSize + 1) * kSize;
    struct Wait {
      std::atomic<int>& calls;
      int whole;
    } wait{calls, whole};
    const auto arrived = +[](Wait* w) { return w->calls.load() >= w->whole; };
    mutex.Await(absl::Condition(arrived, &wait));
    return ReplyOf(number < kSize ? hearth::v1::RESTORED : hearth::v1::WARM, number + 1);
  };
  const auto results = RunBursts(Options(kSize, 3), invoke, kQuiet);
  REQUIRE(results.ok());
  REQUIRE(results->bursts.size() == 3);
  for (const auto& burst : results->bursts) CHECK(burst.size() == kSize);
  CHECK(under_way == 3 * kSize);

  const nlohmann::json json = BurstJson(Options(kSize, 3), *results);
  CHECK(json["benchmark"] == "burst");
  CHECK(json["bursts"].size() == 3);
  CHECK(json["bursts"][2]["samples"].size() == kSize);
  CHECK(json["summary"]["starts"]["RESTORED"] == kSize);
  CHECK(json["summary"]["starts"]["WARM"] == 2 * kSize);
  CHECK(json["summary"]["starts"]["COLD"] == 0);
  CHECK(json["summary"]["failures"] == 0);
  CHECK(json["summary"]["replyMs"]["count"] == 3 * kSize);
  CHECK(json["summary"]["replyMs"]["p50"] == 30);
  CHECK(json["summary"]["replyMs"]["p99"].is_null());  // Too few for one to lie beyond it.
  CHECK(json["summary"]["replyMs"]["max"] == 60);
  const std::string text = BurstText(Options(kSize, 3), *results);
  CHECK_THAT(text, Catch::Contains("3 bursts of 20, one every 0 s") && Catch::Contains("\nall "));
  CHECK_THAT(text, !Catch::Contains("failure:"));
}

TEST_CASE("burst: a burst does not wait for the one before") {
  absl::Barrier* const both = new absl::Barrier(2);  // Its last Block() tells who deletes it.
  const auto invoke = [&](const Call&) -> absl::StatusOr<Reply> {
    if (both->Block()) delete both;
    return ReplyOf(hearth::v1::COLD, 1);
  };
  const auto results = RunBursts(Options(1, 2, 0.001), invoke, kQuiet);
  REQUIRE(results.ok());
  CHECK(results->bursts.size() == 2);
}

TEST_CASE("burst: a failure is counted and shown, and is in no percentile") {
  std::atomic<int> calls{0};
  const auto invoke = [&](const Call&) -> absl::StatusOr<Reply> {
    if (calls.fetch_add(1) == 0) return absl::ResourceExhaustedError("no memory left");
    return ReplyOf(hearth::v1::COLD, 5);
  };
  const auto results = RunBursts(Options(4, 1), invoke, kQuiet);
  REQUIRE(results.ok());
  const nlohmann::json json = BurstJson(Options(4, 1), *results);
  CHECK(json["summary"]["failures"] == 1);
  CHECK(json["summary"]["starts"]["COLD"] == 3);
  CHECK(json["summary"]["replyMs"]["count"] == 3);
  int failed = 0;
  for (const auto& sample : json["bursts"][0]["samples"]) {
    if (!sample.contains("failure")) continue;
    ++failed;
    CHECK(sample["failure"] == "RESOURCE_EXHAUSTED: no memory left");
    CHECK_FALSE(sample.contains("start"));
  }
  CHECK(failed == 1);
  CHECK_THAT(BurstText(Options(4, 1), *results),
             Catch::Contains("the first failure: RESOURCE_EXHAUSTED: no memory left"));
}

TEST_CASE("burst: sizes, numbers and intervals have limits, and their edges are allowed") {
  const auto answer = [](const Call&) -> absl::StatusOr<Reply> {
    return ReplyOf(hearth::v1::WARM, 1);
  };
  const auto refusal = [&](const BurstOptions& options) {
    const auto results = RunBursts(options, answer, kQuiet);
    REQUIRE_FALSE(results.ok());
    CHECK(results.status().code() == absl::StatusCode::kInvalidArgument);
    return std::string(results.status().message());
  };
  CHECK(refusal(Options(0, 1)) == "--size is 0; it must be from 1 to 1000");
  CHECK(refusal(Options(kMaxBurstSize + 1, 1)) == "--size is 1001; it must be from 1 to 1000");
  CHECK_THAT(refusal(Options(1, 0)), Catch::Contains("--bursts is 0"));
  CHECK_THAT(refusal(Options(1, kMaxBursts + 1)), Catch::Contains("--bursts is 10001"));
  CHECK_THAT(refusal(Options(1, 1, -1)), Catch::Contains("--interval is -1"));
  CHECK_THAT(refusal(Options(1, 1, 86'401)), Catch::Contains("--interval"));
  CHECK_THAT(refusal(Options(1, 1, std::numeric_limits<double>::quiet_NaN())),
             Catch::Contains("--interval is nan"));
  CHECK(RunBursts(Options(1, 1, 86'400), answer, kQuiet).ok());
  // More calls than may be under way: bursts wait for the oldest, none is lost.
  const auto many = RunBursts(Options(kMaxBurstSize, 6), answer, kQuiet);
  REQUIRE(many.ok());
  CHECK(many->bursts.size() == 6);
}

}  // namespace
}  // namespace hearth::bench
