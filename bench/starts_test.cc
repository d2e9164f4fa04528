// SPDX-License-Identifier: Apache-2.0
#include "bench/starts.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "bench/cold_start.h"
#include "bench/waterfall.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

v1::Invocation Started(v1::StartKind kind, bool resident, bool waiting) {
  v1::Invocation invocation;
  invocation.set_start_kind(kind);
  invocation.mutable_timing()->set_resident(resident);
  invocation.mutable_timing()->set_waiting_vmm(waiting);
  return invocation;
}

TEST_CASE("starts: each kind is told from each other by what hearthd says") {
  const std::pair<Mode, v1::Invocation> starts[] = {
      {Mode::kColdBoot, Started(v1::COLD, false, false)},
      {Mode::kStore, Started(v1::RESTORED, false, false)},
      {Mode::kResident, Started(v1::RESTORED, true, false)},
      {Mode::kWaiting, Started(v1::RESTORED, true, true)},
      {Mode::kWarm, Started(v1::WARM, false, false)}};
  for (const auto& [mode, own] : starts) {
    for (const auto& [other, invocation] : starts) {
      CAPTURE(NameOf(mode), NameOf(other));
      CHECK(CheckStart(mode, invocation).ok() == (mode == other));
    }
  }
  CHECK(CheckStart(Mode::kColdDisk, Started(v1::RESTORED, false, false)).ok());
  for (const bool flag : {false, true}) {
    CHECK(CheckStart(Mode::kRestored, Started(v1::RESTORED, flag, flag)).ok());
    CHECK_FALSE(CheckStart(Mode::kRestored, Started(v1::COLD, flag, flag)).ok());
    CHECK_FALSE(CheckStart(Mode::kRestored, Started(v1::WARM, flag, flag)).ok());
  }
  // Half of what a mode promises is not that mode.
  CHECK_FALSE(CheckStart(Mode::kWaiting, Started(v1::RESTORED, false, true)).ok());
  CHECK_FALSE(CheckStart(Mode::kStore, Started(v1::RESTORED, false, true)).ok());
  CHECK_FALSE(CheckStart(Mode::kColdBoot, Started(v1::COLD, false, true)).ok());
  CHECK(CheckStart(Mode::kWaiting, Started(v1::WARM, false, false)).message() ==
        "for waiting the start was warm");
}

TEST_CASE("starts: modes are known by their names") {
  for (const Mode mode : kModes) CHECK(ModeOf(NameOf(mode)).value() == mode);
  CHECK(ModeOf("hot").status().message() ==
        "there is no mode \"hot\"; there are cold-boot, cold-disk, store, resident, waiting, "
        "restored, warm");
}

Reply RestoredReply() {
  Reply reply;
  reply.invocation = Started(v1::RESTORED, true, true);
  reply.invocation.mutable_start_time()->set_seconds(1);
  reply.sent_unix_ns = 1'000'000'000 - 1'000'000;
  reply.reply_ms = 14;
  v1::Timing& timing = *reply.invocation.mutable_timing();
  const auto set = [](google::protobuf::Duration* duration, int ms) {
    duration->set_nanos(ms * 1'000'000);
  };
  set(timing.mutable_placed_at(), 1);
  set(timing.mutable_restore_load(), 1);
  set(timing.mutable_restore_machine(), 3);
  set(timing.mutable_vmm_ready(), 1);
  set(timing.mutable_restore_agent(), 1);
  set(timing.mutable_restore_identity(), 1);
  set(timing.mutable_handed_over_at(), 8);
  set(timing.mutable_responded_at(), 11);
  set(timing.mutable_execution(), 4);
  reply.invocation.mutable_usage()->mutable_guest()->set_wall_ns(2'000'000);
  reply.invocation.mutable_usage()->mutable_host()->set_cpu_ns(3'000'000);
  reply.invocation.mutable_usage()->mutable_host()->set_boot_cpu_ns(4'000'000);
  return reply;
}

TEST_CASE("starts: stations are counted from the client's sending, in order") {
  const Sample sample = StationsOf(RestoredReply());
  CHECK(sample.at("gateway_in_ms") == 1);
  CHECK(sample.at("placed_ms") == 2);
  CHECK(sample.at("loaded_ms") == 3);
  CHECK(sample.at("vmm_ready_ms") == 4);
  CHECK(sample.at("resumed_ms") == 6);
  CHECK(sample.at("agent_ms") == 7);
  CHECK(sample.at("identity_ms") == 8);
  CHECK(sample.at("handed_over_ms") == 9);
  CHECK(sample.at("handler_entry_ms") == 10);
  CHECK(sample.at("handler_exit_ms") == 12);
  CHECK(sample.at("outcome_ms") == 13);
  CHECK(sample.at("reply_ms") == 14);
  CHECK(sample.at("vmm_cpu_ms") == 7);
  CHECK(sample.count("booted_ms") == 0);
  double last = 0;
  for (const Station& station : kStations) {
    if (sample.count(station.figure) == 0) continue;
    CHECK(sample.at(station.figure) >= last);
    last = sample.at(station.figure);
  }
}

TEST_CASE("starts: a handler cannot have begun before it was handed its invocation") {
  Reply reply = RestoredReply();
  reply.invocation.mutable_usage()->mutable_guest()->set_wall_ns(2'000'000'000);
  CHECK(StationsOf(reply).at("handler_entry_ms") == 9);
}

TEST_CASE("percentiles: by nearest rank, and none where too few lie beyond") {
  std::vector<double> values;
  for (int i = 1000; i >= 1; --i) values.push_back(i);
  CHECK(Percentile(values, 50) == 500);
  CHECK(Percentile(values, 90) == 900);
  CHECK(Percentile(values, 99) == 990);
  CHECK(Percentile(values, 99.9) == 999);
  values.pop_back();
  CHECK_FALSE(Percentile(values, 99.9).has_value());
  CHECK(Percentile({7}, 50) == 7);
  CHECK_FALSE(Percentile({7}, 90).has_value());
  CHECK_FALSE(Percentile({}, 50).has_value());
  const auto json = PercentilesJson({3, 1, 2});
  CHECK(json["count"] == 3);
  CHECK(json["p50"] == 2);
  CHECK(json["p99"].is_null());
  CHECK(json["max"] == 3);
}

std::map<Mode, ModeResults> Modes(double cold, double waiting, double warm) {
  std::map<Mode, ModeResults> modes;
  modes[Mode::kColdBoot].samples = {{{"reply_ms", cold}}};
  modes[Mode::kWaiting].samples = {{{"reply_ms", waiting}}};
  modes[Mode::kWarm].samples = {{{"reply_ms", warm}}};
  return modes;
}

TEST_CASE("cold starts: the target is held against the restore less the warm start") {
  const Comparison comparison = Compare(Modes(100, 20, 9));
  CHECK(comparison.above_warm == 11);
  CHECK(comparison.cold_ratio == 5);
  ColdStartOptions options;
  options.functions.push_back({"hash", {}, 12});
  ColdStartResults results;
  results.functions["hash"] = Modes(100, 20, 9);
  CHECK(MeetsTargets(options, results));
  CHECK(ColdStartText(options, results).find("(at most 12): met") != std::string::npos);
  results.functions["hash"] = Modes(100, 30, 9);
  CHECK_FALSE(MeetsTargets(options, results));
  CHECK(ColdStartText(options, results).find("MISSED") != std::string::npos);
}

TEST_CASE("cold starts: a start of another kind is counted, told, and no target is met with it") {
  ColdStartOptions options;
  options.functions.push_back({"hash", {}, 12});
  ColdStartResults results;
  results.functions["hash"] = Modes(100, 20, 9);
  results.functions["hash"][Mode::kWaiting].failures = {"for waiting the start was warm"};
  CHECK_FALSE(MeetsTargets(options, results));
  CHECK(ColdStartText(options, results).find("for waiting the start was warm") !=
        std::string::npos);
  const auto json = ColdStartJson(options, results);
  CHECK(json["functions"]["hash"]["starts"]["waiting"]["failures"].size() == 1);
  CHECK(json["functions"]["hash"]["waitingMinusWarm"] == 11);
  results.functions["hash"].erase(Mode::kWaiting);
  CHECK_FALSE(MeetsTargets(options, results));
}

TEST_CASE("waterfall: each bar begins where the one before ends, the last at the reply") {
  const Waterfall waterfall =
      MakeWaterfall("f <1>", "ms", {StationsOf(RestoredReply()), StationsOf(RestoredReply())});
  REQUIRE(waterfall.bars.size() == 12);
  double last = 0;
  for (const auto& bar : waterfall.bars) {
    CHECK(bar.begin == last);
    last = bar.end;
  }
  CHECK(waterfall.total() == 14);
  const std::string text = WaterfallText(waterfall);
  CHECK(std::count(text.begin(), text.end(), '\n') == 13);
  const std::string svg = WaterfallSvg({waterfall, waterfall});
  CHECK(svg.find("f &lt;1&gt;: 14.00 ms") != std::string::npos);
  CHECK(svg.rfind("</svg>\n") == svg.size() - 7);
}

}  // namespace
}  // namespace hearth::bench
