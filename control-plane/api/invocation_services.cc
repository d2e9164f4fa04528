// SPDX-License-Identifier: Apache-2.0
// Invocations. Their calls may take long, so they are asynchronous: a call holds a thread of the
// pool while it runs, but none while its client sends or receives.
#include <atomic>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "control-plane/api/grpc_support.h"
#include "control-plane/api/services.h"
#include "control-plane/limits.h"
#include "hearth/v1/services.grpc.pb.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

absl::Status TooManyInvocations(size_t most) { return TooManyCalls("TOO_MANY_INVOCATIONS", most); }

absl::StatusOr<InvokeResponse> InvokeUnary(Invoker* invoker, const InvokeRequest& request,
                                           absl::Time arrival, absl::Time deadline,
                                           const Cancellation& cancellation) {
  if (request.payload().size() > limits::kMaxUnaryPayloadBytes) {
    return InvalidField("payload", absl::StrCat("has ", request.payload().size(), " bytes; Invoke ",
                                                "takes at most ", limits::kMaxUnaryPayloadBytes,
                                                ", InvokeStream ", limits::kMaxPayloadBytes));
  }
  ByteBudget::Share share(invoker->budget());
  const absl::Status admitted = share.Add(request.payload().size());
  if (!admitted.ok()) return admitted;
  return invoker->Invoke({request, limits::kMaxUnaryPayloadBytes, arrival, deadline, &share},
                         cancellation);
}

// One InvokeStream: reads everything, runs, writes everything. gRPC calls its reactions one at a
// time; Run() comes between the last read and the first write, so nothing needs a lock.
class StreamCall final : public grpc::ServerBidiReactor<InvokeStreamRequest, InvokeStreamResponse> {
 public:
  StreamCall(const ServiceParts& parts, std::atomic<size_t>* open,
             grpc::CallbackServerContext* context)
      : parts_(parts), open_(open), context_(context), share_(parts.invoker->budget()) {
    call_.arrival = SteadyNow();
    call_.deadline = SteadyTimeOf(DeadlineOf(*context));
    call_.max_response_bytes = limits::kMaxResponseBytes;
    call_.share = &share_;
    if (open_->fetch_add(1) >= parts.limits->open_streams) {
      Finish(ToGrpc(TooManyInvocations(parts.limits->open_streams)));
      return;
    }
    StartRead(&request_);
  }
  ~StreamCall() override { open_->fetch_sub(1); }

  void OnReadDone(bool ok) override {
    if (ok) {
      const absl::Status status = Take();
      if (!status.ok()) return Finish(ToGrpc(status));
      return StartRead(&request_);
    }
    if (context_->IsCancelled()) return Finish(ToGrpc(absl::CancelledError("the client left")));
    if (!started_) return Finish(ToGrpc(InvalidField("start", "must come first")));
    if (!parts_.invocations->TrySubmit([this] { Run(); })) {
      Finish(ToGrpc(TooManyInvocations(parts_.limits->invocations)));
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(ToGrpc(absl::CancelledError("the client left")));
    WriteNext();
  }

  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  absl::Status Take() {
    if (!started_) {
      if (!request_.has_start()) return InvalidField("start", "must come first");
      started_ = true;
      call_.request = std::move(*request_.mutable_start());
      return Admit(call_.request.payload().size(), 0);
    }
    if (!request_.has_chunk()) return InvalidField("chunk", "must come behind start");
    const absl::Status status = Admit(request_.chunk().size(), call_.request.payload().size());
    if (status.ok()) call_.request.mutable_payload()->append(request_.chunk());
    return status;
  }

  absl::Status Admit(size_t bytes, size_t before) {
    if (bytes > limits::kMaxChunkBytes) {
      return InvalidField("chunk", absl::StrCat("at most ", limits::kMaxChunkBytes, " bytes"));
    }
    if (before + bytes > limits::kMaxPayloadBytes) {
      return InvalidField(
          "payload", absl::StrCat("is over the limit of ", limits::kMaxPayloadBytes, " bytes"));
    }
    return share_.Add(bytes);
  }

  void Run() {
    auto response = parts_.invoker->Invoke(call_, cancellation_);
    if (!response.ok()) return Finish(ToGrpc(response.status()));
    call_.request.Clear();
    response_ = *std::move(response);
    rest_ = response_.payload();
    auto* head = message_.mutable_started();
    head->set_invocation(response_.invocation().name());
    head->set_version(response_.invocation().version());
    head->set_content_type(response_.content_type());
    StartWrite(&message_);
  }

  void WriteNext() {
    if (rest_.empty()) {
      *message_.mutable_finished() = response_.invocation();
      return StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    }
    const absl::string_view chunk = rest_.substr(0, limits::kMaxChunkBytes);
    rest_.remove_prefix(chunk.size());
    message_.set_chunk(std::string(chunk));
    StartWrite(&message_);
  }

  const ServiceParts& parts_;
  std::atomic<size_t>* const open_;
  grpc::CallbackServerContext* const context_;
  ByteBudget::Share share_;
  Cancellation cancellation_;
  InvokeStreamRequest request_;
  bool started_ = false;
  InvokeCall call_;
  InvokeResponse response_;
  absl::string_view rest_;  // Of response_'s payload.
  InvokeStreamResponse message_;
};

using HalfAsync = InvocationService::WithCallbackMethod_Invoke<
    InvocationService::WithCallbackMethod_InvokeStream<InvocationService::Service>>;

class InvocationServiceImpl final : public HalfAsync {
 public:
  explicit InvocationServiceImpl(const ServiceParts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* Invoke(grpc::CallbackServerContext* context,
                                   const InvokeRequest* request,
                                   InvokeResponse* response) override {
    const absl::Time arrival = SteadyNow();
    const absl::Time deadline = SteadyTimeOf(DeadlineOf(*context));
    return new PooledCall<InvokeResponse>(
        parts_.invocations, response,
        [=, invoker = parts_.invoker](const Cancellation& cancellation) {
          return InvokeUnary(invoker, *request, arrival, deadline, cancellation);
        },
        TooManyInvocations(parts_.limits->invocations));
  }

  grpc::ServerBidiReactor<InvokeStreamRequest, InvokeStreamResponse>* InvokeStream(
      grpc::CallbackServerContext* context) override {
    return new StreamCall(parts_, &open_, context);
  }

  grpc::Status GetInvocation(grpc::ServerContext*, const GetInvocationRequest* request,
                             Invocation* response) override {
    return Answer(parts_.queries->GetInvocation(*request), response);
  }
  grpc::Status ListInvocations(grpc::ServerContext*, const ListInvocationsRequest* request,
                               ListInvocationsResponse* response) override {
    return Answer(parts_.queries->ListInvocations(*request), response);
  }

 private:
  const ServiceParts parts_;
  std::atomic<size_t> open_{0};
};

}  // namespace

void AddInvocationServices(const ServiceParts& parts, Services* services) {
  services->push_back(std::make_unique<InvocationServiceImpl>(parts));
}

}  // namespace hearth::control
