// SPDX-License-Identifier: Apache-2.0
#include "bench/invoke.h"

#include <grpcpp/grpcpp.h>
#include <poll.h>

#include <cstdio>

#include "hearth/v1/services.grpc.pb.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

constexpr size_t kChunkBytes = 512 * 1024;
constexpr int kPollMs = 20;
constexpr uint64_t kIdleTimeoutNs = 300'000'000'000;

absl::Status FromGrpc(const grpc::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      what + ": " + status.error_message());
}

double Ms(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) * 1e3 + duration.nanos() / 1e6;
}

class Bench {
 public:
  explicit Bench(const InvokeOptions& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    const auto channel = grpc::CreateCustomChannel("unix:" + options.socket,
                                                   grpc::InsecureChannelCredentials(), arguments);
    invocations_ = v1::InvocationService::NewStub(channel);
    instances_ = v1::InstanceService::NewStub(channel);
  }

  // hearthd has no call that waits for this.
  absl::Status AwaitNoInstance() {
    for (const uint64_t start_ns = NowNs(); NowNs() - start_ns < kIdleTimeoutNs;) {
      grpc::ClientContext context;
      v1::ListInstancesRequest request;
      request.set_parent(options_.function);
      v1::ListInstancesResponse response;
      RETURN_IF_ERROR(
          FromGrpc(instances_->ListInstances(&context, request, &response), "listing instances"));
      if (response.instances().empty()) return absl::OkStatus();
      poll(nullptr, 0, kPollMs);
    }
    return absl::DeadlineExceededError(
        "the function's instances do not end; start hearthd with --idle-stop 1");
  }

  absl::StatusOr<Sample> Invoke(bool cold) {
    grpc::ClientContext context;
    const uint64_t start_ns = NowNs();
    auto stream = invocations_->InvokeStream(&context);
    v1::InvokeStreamRequest request;
    request.mutable_start()->set_name(options_.function);
    request.mutable_start()->set_content_type(options_.content_type);
    bool going = stream->Write(request);
    for (size_t at = 0; going && at < options_.payload.size(); at += kChunkBytes) {
      request.set_chunk(options_.payload.substr(at, kChunkBytes));
      going = stream->Write(request);
    }
    stream->WritesDone();
    v1::InvokeStreamResponse part;
    v1::Invocation invocation;
    while (stream->Read(&part)) {
      if (part.has_finished()) invocation = part.finished();
    }
    RETURN_IF_ERROR(FromGrpc(stream->Finish(), "invoking"));
    const double reply_ms = static_cast<double>(NowNs() - start_ns) / 1e6;
    if (invocation.outcome() != v1::SUCCEEDED) {
      return absl::FailedPreconditionError(absl::StrCat("the function answered ",
                                                        v1::Outcome_Name(invocation.outcome()),
                                                        ": ", invocation.error().message()));
    }
    if ((invocation.start_kind() == v1::WARM) == cold) {
      return absl::InternalError(
          absl::StrCat("the start was ", v1::StartKind_Name(invocation.start_kind())));
    }
    return SampleOf(invocation, reply_ms);
  }

 private:
  const InvokeOptions& options_;
  std::unique_ptr<v1::InvocationService::Stub> invocations_;
  std::unique_ptr<v1::InstanceService::Stub> instances_;
};

constexpr struct {
  const char* figure;
  const char* label;
} kStations[] = {{"reply_ms", "reply, as the client sees it"},
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
  Bench bench(options);
  for (int run = 0; run < options.warmup + options.runs; ++run) {
    progress("run " + std::to_string(run + 1) + " of " +
             std::to_string(options.warmup + options.runs));
    auto& list = run < options.warmup ? results.discarded : results.samples;
    RETURN_IF_ERROR(bench.AwaitNoInstance());
    for (const bool cold : {true, false}) {
      ASSIGN_OR_RETURN(Sample sample, bench.Invoke(cold));
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
                options.function.c_str(), options.payload.size(), options.runs);
  std::string text = line;
  for (const auto& [kind, samples] : results.samples) {
    std::snprintf(line, sizeof line, "\n%-42s %10s %10s %10s\n", kind.c_str(), "median", "min",
                  "max");
    text += line;
    for (const auto& station : kStations) {
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
                         {"function", options.function},
                         {"payloadBytes", options.payload.size()},
                         {"runs", options.runs},
                         {"warmup", options.warmup}};
  for (const auto& [kind, samples] : results.samples) {
    json["starts"][kind]["samples"] = samples;
    for (const auto& station : kStations) {
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
