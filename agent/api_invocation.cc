// SPDX-License-Identifier: Apache-2.0
// The life of one invocation on the Runtime API: payload, offer, answer, next or end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/api_runtime.h"
#include "agent/files.h"

namespace hearth::agent {

using agent::v1::FunctionError;
using agent::v1::Reply;

namespace {

// How often memory.current is looked at while an invocation runs (docs/metering.md).
constexpr int64_t kSampleIntervalNs = 50'000'000;

}  // namespace

void ApiRuntime::Invoke(uint64_t call_id, const agent::v1::Invoke& invoke) {
  if (process_ == nullptr || start_call_id_ != 0) {
    return context_->ReplyError(call_id, absl::FailedPreconditionError("no runtime is ready"));
  }
  if (invocation_ != nullptr) {
    return context_->ReplyError(
        call_id, absl::FailedPreconditionError(absl::StrCat(
                     "invocation ", invocation_->invoke.invocation_id(), " is still running")));
  }
  invocation_ = std::make_unique<Invocation>();
  invocation_->call_id = call_id;
  invocation_->invoke = invoke;
  invocation_->response = std::make_unique<ResponseSender>(
      context_->mux, context_->streams, invoke.response_stream(), [this] { ReplyWhenSent(); });
  if (invoke.timeout_ms() > 0) {
    invocation_->deadline = context_->loop->After(invoke.timeout_ms() * 1'000'000, [this] {
      invocation_->deadline = 0;
      DeadlineMet();
    });
  }
  if (invoke.request_stream() == 0) return Offer();
  invocation_->payload =
      std::make_unique<RequestPayload>(context_->mux, context_->streams, invoke.request_stream(),
                                       [this](bool aborted) { PayloadArrived(aborted); });
}

bool ApiRuntime::InvocationIs(InvocationState state) const {
  return invocation_ != nullptr && invocation_->state == state;
}

bool ApiRuntime::AdvanceInvocation(InvocationEvent event) {
  const std::optional<InvocationState> next = NextInvocationState(invocation_->state, event);
  if (!next.has_value()) return false;
  invocation_->state = *next;
  return true;
}

void ApiRuntime::PayloadArrived(bool aborted) {
  if (!InvocationIs(InvocationState::kCollecting)) return;
  if (!aborted) return Offer();
  SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR,
             MakeFunctionError("Runtime.RequestAborted", "the payload did not arrive whole"));
  InvocationOver(nullptr, /*reusable=*/true);
}

void ApiRuntime::Offer() {
  Invocation& invocation = *invocation_;
  const agent::v1::Invoke& invoke = invocation.invoke;
  AdvanceInvocation(InvocationEvent::kOffer);
  output_log_->set_request_id(invoke.invocation_id());
  error_log_->set_request_id(invoke.invocation_id());
  invocation.begin = TakeSnapshot(process_->cgroup());
  ResetResidentPeaks(process_->cgroup());
  Sample();
  RuntimeInvocation offer;
  offer.id = invoke.invocation_id();
  offer.deadline_unix_ms = invoke.deadline_unix_ms();
  offer.content_type = invoke.content_type();
  offer.function_arn = invoke.function_arn();
  offer.trace_id = invoke.trace_id();
  offer.client_context = invoke.client_context();
  offer.payload = invocation.payload != nullptr ? invocation.payload->Take()
                                                : std::make_shared<const std::string>();
  api_->Offer(std::move(offer));
}

void ApiRuntime::Sample() {
  invocation_->sampled_peak_bytes =
      std::max(invocation_->sampled_peak_bytes, process_->cgroup().memory_current_bytes());
  invocation_->sampler = context_->loop->After(kSampleIntervalNs, [this] { Sample(); });
}

bool ApiRuntime::Cancel(const std::string& invocation_id) {
  if (invocation_ == nullptr || invocation_->invoke.invocation_id() != invocation_id) return false;
  if (InvocationIs(InvocationState::kOver)) {
    // Only the response is still on its way, and no one waits for it.
    invocation_->response->Abort("the invocation was cancelled");
    ReplyWhenSent();
    return true;
  }
  if (InvocationIs(InvocationState::kCollecting)) {
    SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR,
               MakeFunctionError("Runtime.Cancelled", "the invocation was cancelled"));
    InvocationOver(nullptr, /*reusable=*/true);
  } else {
    // What it has answered already, stays so.
    AdvanceInvocation(InvocationEvent::kCancel);
    process_->Kill(KillReason::kRequested);
  }
  return true;
}

void ApiRuntime::DeadlineMet() {
  if (!InvocationIs(InvocationState::kCollecting)) {
    // The rest is RuntimeEnded's, when nothing of it runs any more.
    return process_->Kill(KillReason::kTimedOut);
  }
  SetFailure(agent::v1::OUTCOME_TIMED_OUT,
             MakeFunctionError("Runtime.TimedOut", "the payload did not arrive in time"));
  InvocationOver(nullptr, /*reusable=*/true);
}

void ApiRuntime::OnResponseBegin(const std::string& content_type) {
  invocation_->result.set_content_type(Utf8(content_type, 256));
}

void ApiRuntime::OnResponseData(absl::string_view data) {
  Invocation& invocation = *invocation_;
  invocation.response_bytes += data.size();
  if (invocation.response_bytes <= max_response_bytes_) {
    invocation.response->Write(data);
  } else if (!invocation.response->done()) {
    invocation.response->Abort("the response is over the limit");
    SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR,
               MakeFunctionError("Function.ResponseSizeTooLarge",
                                 absl::StrCat("the response is over the limit of ",
                                              max_response_bytes_, " bytes")));
  }
  // Only a streamed response can be paused; a buffered one is here already. One that was aborted
  // goes on at once: it is read to its end, for nobody.
  api_->PauseResponse(invocation.response->full());
}

void ApiRuntime::OnResponseEnd(const FunctionError* error) {
  Invocation& invocation = *invocation_;
  AdvanceInvocation(InvocationEvent::kAnswer);
  if (error != nullptr) return SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR, *error);
  if (invocation.result.has_error()) return;  // It was too long.
  invocation.result.set_outcome(agent::v1::OUTCOME_SUCCEEDED);
  invocation.response->End();
}

void ApiRuntime::OnInvocationError(FunctionError error) {
  SetFailure(agent::v1::OUTCOME_FUNCTION_ERROR, std::move(error));
}

void ApiRuntime::SetFailure(agent::v1::Outcome outcome, FunctionError error) {
  Invocation& invocation = *invocation_;
  AdvanceInvocation(InvocationEvent::kAnswer);
  invocation.result.set_outcome(outcome);
  *invocation.result.mutable_error() = std::move(error);
  invocation.response->Abort("the invocation failed");
}

void ApiRuntime::InvocationOver(const UsageSnapshot* end, bool reusable) {
  Invocation& invocation = *invocation_;
  context_->loop->Cancel(std::exchange(invocation.deadline, 0));
  context_->loop->Cancel(std::exchange(invocation.sampler, 0));
  AdvanceInvocation(InvocationEvent::kEnd);
  invocation.result.set_reusable(reusable);
  if (end != nullptr) {
    invocation.result.set_user_code_started(api_->offered_was_taken());
    *invocation.result.mutable_usage() =
        UsageBetween(invocation.begin, *end, invocation.sampled_peak_bytes);
  }
  ReplyWhenSent();
}

void ApiRuntime::ReplyWhenSent() {
  if (invocation_ == nullptr) return;
  Invocation& invocation = *invocation_;
  api_->PauseResponse(invocation.response->full());
  if (!InvocationIs(InvocationState::kOver) || !invocation.response->done()) return;
  Reply reply;
  reply.set_id(invocation.call_id);
  *reply.mutable_invocation_result() = invocation.result;
  finished_ = std::move(invocation_);
  context_->Reply(reply);
}

}  // namespace hearth::agent
