// SPDX-License-Identifier: Apache-2.0
#include "bench/client.h"

#include <grpcpp/grpcpp.h>
#include <poll.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/clock.h"
#include "vmm/base/status.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::v1;

constexpr size_t kChunkBytes = 512 * 1024;
constexpr int kPollMs = 100;
constexpr uint64_t kIdleTimeoutNs = 300'000'000'000;

absl::Status FromGrpc(const grpc::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      what + ": " + status.error_message());
}

}  // namespace

Client::Client(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  // A channel's own connection: another one of the same address may be of a hearthd that has ended.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  invocations_ = v1::InvocationService::NewStub(channel);
  instances_ = v1::InstanceService::NewStub(channel);
}

absl::StatusOr<Reply> Client::Invoke(const Call& call) const {
  grpc::ClientContext context;
  Reply reply;
  reply.sent_unix_ns = absl::GetCurrentTimeNanos();
  const uint64_t start_ns = NowNs();
  BeginProfile();
  auto stream = invocations_->InvokeStream(&context);
  v1::InvokeStreamRequest request;
  request.mutable_start()->set_name(call.function);
  request.mutable_start()->set_content_type(call.content_type);
  bool going = stream->Write(request);
  for (size_t at = 0; going && at < call.payload.size(); at += kChunkBytes) {
    request.set_chunk(call.payload.substr(at, kChunkBytes));
    going = stream->Write(request);
  }
  stream->WritesDone();
  v1::InvokeStreamResponse part;
  while (stream->Read(&part)) {
    if (part.has_finished()) reply.invocation = std::move(*part.mutable_finished());
  }
  RETURN_IF_ERROR(FromGrpc(stream->Finish(), "invoking"));
  EndProfile();
  reply.reply_ms = static_cast<double>(NowNs() - start_ns) / 1e6;
  if (reply.invocation.outcome() != v1::SUCCEEDED) {
    return absl::FailedPreconditionError(absl::StrCat("the function answered ",
                                                      v1::Outcome_Name(reply.invocation.outcome()),
                                                      ": ", reply.invocation.error().message()));
  }
  return reply;
}

std::vector<absl::StatusOr<Reply>> Client::InvokeAtOnce(const Call& call, int count) const {
  std::vector<absl::StatusOr<Reply>> replies(static_cast<size_t>(count));
  if (count == 1) {
    replies[0] = Invoke(call);  // Without a thread's beginning in it.
    return replies;
  }
  std::vector<std::thread> threads;
  threads.reserve(replies.size());
  for (auto& reply : replies) threads.emplace_back([&] { reply = Invoke(call); });
  for (std::thread& thread : threads) thread.join();
  return replies;
}

absl::StatusOr<int> Client::CountInstances(const std::string& function) const {
  grpc::ClientContext context;
  v1::ListInstancesRequest request;
  request.set_parent(function);
  request.set_page_size(1000);
  v1::ListInstancesResponse response;
  RETURN_IF_ERROR(
      FromGrpc(instances_->ListInstances(&context, request, &response), "listing instances"));
  return response.instances_size();
}

absl::Status Client::AwaitNoInstance(const std::string& function) const {
  for (const uint64_t start_ns = NowNs(); NowNs() - start_ns < kIdleTimeoutNs;) {
    ASSIGN_OR_RETURN(const int count, CountInstances(function));
    if (count == 0) return absl::OkStatus();
    poll(nullptr, 0, kPollMs);
  }
  return absl::DeadlineExceededError(
      "the function's instances do not end; start hearthd with --idle-stop 1");
}

}  // namespace hearth::bench
