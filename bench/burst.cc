// SPDX-License-Identifier: Apache-2.0
#include "bench/burst.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "bench/samples.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

constexpr int kCallsPerConnection = 50;
constexpr double kMaxIntervalS = 24 * 3600;
constexpr const char* kStarts[] = {"COLD", "RESTORED", "WARM"};

absl::Status CheckOptions(const BurstOptions& options) {
  const auto outside = [](const char* option, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("--%s is %g; it must be from %g to %g", option, value, least, most));
  };
  RETURN_IF_ERROR(outside("size", options.size, 1, kMaxBurstSize));
  RETURN_IF_ERROR(outside("bursts", options.bursts, 1, kMaxBursts));
  return outside("interval", options.interval_s, 0, kMaxIntervalS);
}

void SleepUntil(uint64_t ns) {
  const timespec until{static_cast<time_t>(ns / 1'000'000'000),
                       static_cast<long>(ns % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

// One burst: its threads stand ready before its time, so that starting them is not in a figure.
class Burst {
 public:
  Burst(const BurstOptions& options, const InvokeFunction& invoke)
      : calls_(static_cast<size_t>(options.size)) {
    for (BurstCall& call : calls_) {
      threads_.emplace_back([this, &call, &options, &invoke] {
        go_.WaitForNotification();
        Make(call, options.call, invoke);
      });
    }
  }

  void Start(uint64_t due_ns) {
    due_ns_ = due_ns;
    go_.Notify();
  }
  std::vector<BurstCall> Await() {
    for (std::thread& thread : threads_) thread.join();
    return std::move(calls_);
  }

 private:
  void Make(BurstCall& call, const Call& what, const InvokeFunction& invoke) const {
    const uint64_t sent_ns = NowNs();
    const auto reply = invoke(what);
    call.sent_ms = static_cast<double>(sent_ns - due_ns_) / 1e6;
    if (!reply.ok()) {
      call.reply_ms = static_cast<double>(NowNs() - sent_ns) / 1e6;
      call.failure = absl::StrCat(absl::StatusCodeToString(reply.status().code()), ": ",
                                  reply.status().message());
      return;
    }
    call.reply_ms = reply->reply_ms;
    call.start = hearth::v1::StartKind_Name(reply->invocation.start_kind());
    call.invocation = reply->invocation.name();
  }

  std::vector<BurstCall> calls_;
  absl::Notification go_;
  uint64_t due_ns_ = 0;  // Before go_.
  std::vector<std::thread> threads_;
};

std::vector<double> Replies(const std::vector<BurstCall>& calls) {
  std::vector<double> values;
  for (const BurstCall& call : calls) {
    if (call.failure.empty()) values.push_back(call.reply_ms);
  }
  return values;
}

size_t CountStarts(const std::vector<BurstCall>& calls, const std::string& start) {
  size_t count = 0;
  for (const BurstCall& call : calls) count += call.start == start ? 1 : 0;
  return count;
}

double LatestMs(const std::vector<BurstCall>& calls) {
  double latest = 0;
  for (const BurstCall& call : calls) latest = std::max(latest, call.sent_ms);
  return latest;
}

std::vector<BurstCall> AllOf(const BurstResults& results) {
  std::vector<BurstCall> all;
  for (const auto& burst : results.bursts) all.insert(all.end(), burst.begin(), burst.end());
  return all;
}

nlohmann::json SummaryJson(const std::vector<BurstCall>& calls) {
  nlohmann::json starts;
  for (const char* start : kStarts) starts[start] = CountStarts(calls, start);
  const std::vector<double> replies = Replies(calls);
  return {{"replyMs", PercentilesJson(replies)},
          {"starts", starts},
          {"failures", calls.size() - replies.size()},
          {"latestSendMs", LatestMs(calls)}};
}

std::string Cell(std::optional<double> value) {
  return value.has_value() ? absl::StrFormat("%10.2f", *value) : absl::StrFormat("%10s", "-");
}

std::string Row(const std::string& label, const std::vector<BurstCall>& calls) {
  const std::vector<double> replies = Replies(calls);
  std::string row = absl::StrFormat("%-8s", label);
  for (const double percent : kPercents) row += Cell(Percentile(replies, percent));
  row += Cell(Percentile(replies, 100));
  for (const char* start : kStarts) absl::StrAppendFormat(&row, " %9d", CountStarts(calls, start));
  absl::StrAppendFormat(&row, " %8d %10.2f\n", calls.size() - replies.size(), LatestMs(calls));
  return row;
}

}  // namespace

absl::StatusOr<BurstResults> RunBursts(const BurstOptions& options, const InvokeFunction& invoke,
                                       const std::function<void(const std::string&)>& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  BurstResults results;
  results.clock = MeasureClock();
  std::deque<std::unique_ptr<Burst>> in_flight;
  const auto await_oldest = [&] {
    results.bursts.push_back(in_flight.front()->Await());
    in_flight.pop_front();
  };
  const auto most = static_cast<size_t>(std::max(1, kMaxBurstCallsInFlight / options.size));
  const auto interval_ns = static_cast<uint64_t>(options.interval_s * 1e9);
  uint64_t first_ns = 0;
  for (int number = 0; number < options.bursts; ++number) {
    progress(absl::StrCat("burst ", number + 1, " of ", options.bursts));
    while (in_flight.size() >= most) await_oldest();
    in_flight.push_back(std::make_unique<Burst>(options, invoke));
    if (number == 0) first_ns = NowNs();
    const uint64_t due_ns = first_ns + static_cast<uint64_t>(number) * interval_ns;
    SleepUntil(due_ns);
    in_flight.back()->Start(due_ns);
  }
  while (!in_flight.empty()) await_oldest();
  return results;
}

absl::StatusOr<BurstResults> RunBursts(const BurstOptions& options,
                                       const std::function<void(const std::string&)>& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  std::vector<std::unique_ptr<Client>> clients;
  for (int calls = 0; calls < options.size; calls += kCallsPerConnection) {
    clients.push_back(std::make_unique<Client>(options.socket));
    // Connects: that is not in a figure.
    RETURN_IF_ERROR(clients.back()->CountInstances(options.call.function).status());
  }
  std::atomic<size_t> next{0};
  return RunBursts(
      options,
      [&](const Call& call) { return clients[next.fetch_add(1) % clients.size()]->Invoke(call); },
      progress);
}

std::string BurstText(const BurstOptions& options, const BurstResults& results) {
  std::string text = absl::StrFormat(
      "clock    %s\nfunction %s, %d bytes of payload; %d bursts of %d, one every %g s\n\n"
      "%-8s%10s%10s%10s%10s%10s %9s %9s %9s %8s %10s\n",
      results.clock.counts_instructions ? "counts instructions: 1 \"ms\" is a million instructions"
                                        : "real time",
      options.call.function, options.call.payload.size(), options.bursts, options.size,
      options.interval_s, "burst", "p50 ms", "p90", "p99", "p99.9", "max", "cold", "restored",
      "warm", "failed", "sent late");
  for (size_t number = 0; number < results.bursts.size(); ++number) {
    text += Row(absl::StrCat(number + 1), results.bursts[number]);
  }
  text += Row("all", AllOf(results));
  for (const BurstCall& call : AllOf(results)) {
    if (call.failure.empty()) continue;
    absl::StrAppend(&text, "\nthe first failure: ", call.failure, "\n");
    break;
  }
  return text;
}

nlohmann::json BurstJson(const BurstOptions& options, const BurstResults& results) {
  nlohmann::json json = {{"benchmark", "burst"},
                         {"clock",
                          {{"countsInstructions", results.clock.counts_instructions},
                           {"unitOfMs", results.clock.unit()}}},
                         {"function", options.call.function},
                         {"payloadBytes", options.call.payload.size()},
                         {"size", options.size},
                         {"intervalS", options.interval_s},
                         {"summary", SummaryJson(AllOf(results))},
                         {"bursts", nlohmann::json::array()}};
  for (const auto& burst : results.bursts) {
    nlohmann::json samples = nlohmann::json::array();
    for (const BurstCall& call : burst) {
      nlohmann::json sample = {{"sentMs", call.sent_ms}, {"replyMs", call.reply_ms}};
      if (call.failure.empty()) {
        sample["start"] = call.start;
        sample["invocation"] = call.invocation;
      } else {
        sample["failure"] = call.failure;
      }
      samples.push_back(std::move(sample));
    }
    json["bursts"].push_back({{"summary", SummaryJson(burst)}, {"samples", std::move(samples)}});
  }
  return json;
}

}  // namespace hearth::bench
