// SPDX-License-Identifier: Apache-2.0
#include "bench/invoke.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "bench/client.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

double Ms(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e3 + duration.nanos() / 1e6;
}

absl::StatusOr<Sample> InvokeOnce(const Client& client, const Call& call, bool cold) {
  ASSIGN_OR_RETURN(const Reply reply, client.Invoke(call));
  if ((reply.invocation.start_kind() == v1::WARM) == cold) {
    return absl::InternalError(
        absl::StrCat("the start was ", v1::StartKind_Name(reply.invocation.start_kind())));
  }
  return SampleOf(reply.invocation, reply.reply_ms);
}

constexpr struct {
  const char* figure;
  const char* label;
} kInvokeStations[] = {{"reply_ms", "reply, as the client sees it"},
                       {"total_ms", "in hearthd"},
                       {"queued_ms", "  until an instance was reserved"},
                       {"boot_ms", "  boot"},
                       {"init_ms", "  initialisation of the function"},
                       {"execution_ms", "  execution"},
                       {"guest_ms", "  wall time that the guest reports"},
                       {"host_cpu_ms", "CPU of the VMM in the invocation"}};

}  // namespace

Sample SampleOf(const v1::Invocation& invocation, double reply_ms) {
  const v1::Timing& timing = invocation.timing();
  return {{"reply_ms", reply_ms},
          {"total_ms", Ms(timing.total())},
          {"queued_ms", Ms(timing.queued())},
          {"boot_ms", Ms(timing.boot())},
          {"init_ms", Ms(timing.init())},
          {"execution_ms", Ms(timing.execution())},
          {"guest_ms", static_cast<double>(invocation.usage().guest().wall_ns()) / 1e6},
          {"host_cpu_ms", static_cast<double>(invocation.usage().host().cpu_ns()) / 1e6}};
}

absl::StatusOr<InvokeResults> RunInvoke(const InvokeOptions& options,
                                        const std::function<void(const std::string&)>& progress) {
  InvokeResults results;
  results.clock = MeasureClock();
  const Client client(options.socket);
  for (int run = 0; run < options.warmup + options.runs; ++run) {
    progress("run " + std::to_string(run + 1) + " of " +
             std::to_string(options.warmup + options.runs));
    auto& list = run < options.warmup ? results.discarded : results.samples;
    RETURN_IF_ERROR(client.AwaitNoInstance(options.call.function));
    for (const bool cold : {true, false}) {
      ASSIGN_OR_RETURN(Sample sample, InvokeOnce(client, options.call, cold));
      list[cold ? "cold" : "warm"].push_back(std::move(sample));
    }
  }
  return results;
}

std::string InvokeText(const InvokeOptions& options, const InvokeResults& results) {
  char line[256];
  std::snprintf(line, sizeof line, "clock    %s\nfunction %s, %zu bytes of payload; %d runs\n",
                results.clock.counts_instructions
                    ? "counts instructions: 1 \"ms\" is a million instructions"
                    : "real time",
                options.call.function.c_str(), options.call.payload.size(), options.runs);
  std::string text = line;
  for (const auto& [kind, samples] : results.samples) {
    std::snprintf(line, sizeof line, "\n%-42s %10s %10s %10s\n", kind.c_str(), "median", "min",
                  "max");
    text += line;
    for (const auto& station : kInvokeStations) {
      const Summary summary = SummarizeFigure(samples, station.figure);
      std::snprintf(line, sizeof line, "  %-40s %10.2f %10.2f %10.2f\n", station.label,
                    summary.median, summary.min, summary.max);
      text += line;
    }
  }
  return text;
}

nlohmann::json InvokeJson(const InvokeOptions& options, const InvokeResults& results) {
  nlohmann::json json = {{"benchmark", "invoke"},
                         {"clock",
                          {{"countsInstructions", results.clock.counts_instructions},
                           {"unitOfMs", results.clock.unit()}}},
                         {"function", options.call.function},
                         {"payloadBytes", options.call.payload.size()},
                         {"runs", options.runs},
                         {"warmup", options.warmup}};
  for (const auto& [kind, samples] : results.samples) {
    json["starts"][kind]["samples"] = samples;
    for (const auto& station : kInvokeStations) {
      json["starts"][kind]["summary"][station.figure] =
          ToJson(SummarizeFigure(samples, station.figure));
    }
  }
  for (const auto& [kind, samples] : results.discarded) {
    json["starts"][kind]["discarded"] = samples;
  }
  return json;
}

}  // namespace hearth::bench
