// SPDX-License-Identifier: Apache-2.0
// An invocation on an AgentSession: its call, the payload one way, the response the other.
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/agent_session.h"
#include "control-plane/node/agent_session_active.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

SessionResult AgentSession::Invoke(SessionInvocation invocation, ResponseSink& response,
                                   const Cancellation& cancellation) {
  Active active;
  active.unsent = invocation.payload;
  active.max_response_bytes = invocation.max_response_bytes;
  active.cancel_grace = invocation.cancel_grace;
  active.invocation_id = invocation.invoke.invocation_id();
  {
    const Cancellation::Registration registration = cancellation.OnCancel([&] {
      absl::MutexLock lock(&mutex_);
      active.client_left = true;
      changed_.SignalAll();
    });
    absl::MutexLock lock(&mutex_);
    active_ = &active;
    if (status_.ok()) {
      if (absl::Status sent = SendInvoke(invocation.invoke, &active); !sent.ok()) Fail(sent);
    }
    PumpInvocation(&active, response);
    active_ = nullptr;
    SessionResult& result = active.result;
    result.sent = written_bytes_ > active.call_offset && active.call_id != 0;
    if (!result.reply.has_value()) {
      result.connection = status_;
    } else if (mux_.live_streams() != 0) {
      Fail(absl::InvalidArgumentError("the agent answered an invocation with its streams open"));
    }
  }
  TellIfUnusable();
  return std::move(active.result);
}

absl::Status AgentSession::SendInvoke(const agent::v1::Invoke& invoke, Active* active) {
  agent::v1::Call call;
  *call.mutable_invoke() = invoke;
  active->request_stream = mux_.NextStreamId();
  active->response_stream = mux_.NextStreamId();
  call.mutable_invoke()->set_request_stream(active->request_stream);
  call.mutable_invoke()->set_response_stream(active->response_stream);
  active->call_offset = written_bytes_ + mux_.output().size();
  ASSIGN_OR_RETURN(active->call_id, mux_.SendCall(std::move(call)));
  active->request_open = true;
  return absl::OkStatus();
}

void AgentSession::SendCancel(Active* active) {
  active->cancel_sent = true;
  active->cancel_deadline = SteadyNow() + active->cancel_grace;
  active->request_open = false;
  mux_.AbortStream(active->request_stream, "cancelled");
  mux_.AbortStream(active->response_stream, "cancelled");
  active->response.clear();
  agent::v1::Call call;
  call.mutable_cancel_invocation()->set_invocation_id(active->invocation_id);
  // Its reply says nothing that the invocation's own does not.
  if (const auto sent = mux_.SendCall(std::move(call)); !sent.ok()) Fail(sent.status());
  Flush();
}

void AgentSession::PumpInvocation(Active* active, ResponseSink& response) {
  SessionResult& result = active->result;
  // A response that is whole is passed on even if the connection has ended behind it.
  while (status_.ok() || result.reply.has_value()) {
    if (active->client_left && result.stopped.ok()) {
      result.stopped = absl::CancelledError("the client cancelled the invocation");
    }
    if (!result.stopped.ok() && !active->cancel_sent && !result.reply.has_value()) {
      SendCancel(active);
      continue;
    }
    if (PassOnResponse(active, response)) continue;
    if (result.reply.has_value()) {
      // What the function has logged is told before its result.
      if (!status_.ok() || (logs_.empty() && !telling_logs_)) return;
      changed_.Wait(&mutex_);
      continue;
    }
    if (PassOnRequest(active)) continue;
    if (changed_.WaitWithDeadline(&mutex_, active->cancel_deadline) && status_.ok() &&
        !result.reply.has_value()) {
      Fail(absl::DeadlineExceededError("the agent did not confirm a cancellation in time"));
    }
  }
}

bool AgentSession::PassOnResponse(Active* active, ResponseSink& response) {
  if (active->response.empty()) return false;
  SessionResult& result = active->result;
  std::string piece = std::exchange(active->response, {});
  const size_t size = piece.size();
  if (!result.stopped.ok()) return true;
  if (result.response_bytes + size > active->max_response_bytes) {
    result.response_too_large = true;
    result.stopped = absl::ResourceExhaustedError(
        absl::StrCat("the response is over the limit of ", active->max_response_bytes, " bytes"));
    return true;
  }
  mutex_.Unlock();
  const absl::Status written = response.Write(std::move(piece));
  mutex_.Lock();
  if (!written.ok()) {
    if (result.stopped.ok()) result.stopped = written;
    return true;
  }
  result.response_bytes += size;
  mux_.Consume(active->response_stream, size);
  Flush();
  return true;
}

bool AgentSession::PassOnRequest(Active* active) {
  if (!active->request_open) return false;
  if (active->unsent.empty()) {
    active->request_open = false;
    mux_.EndStream(active->request_stream).IgnoreError();  // The agent may want no more of it.
    Flush();
    return true;
  }
  const absl::StatusOr<size_t> sent = mux_.SendData(active->request_stream, active->unsent);
  if (!sent.ok()) {
    active->request_open = false;
    return true;
  }
  active->unsent.remove_prefix(*sent);
  active->result.request_bytes += *sent;
  Flush();
  return *sent > 0;
}

void AgentSession::OnStreamData(uint32_t stream_id, absl::string_view data) {
  mutex_.AssertHeld();
  if (active_ == nullptr || stream_id != active_->response_stream) return;
  if (active_->result.first_byte == absl::InfinitePast()) {
    active_->result.first_byte = SteadyNow();
  }
  active_->response.append(data.data(), data.size());
  changed_.SignalAll();
}

void AgentSession::OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) {
  mutex_.AssertHeld();
  (void)reason;
  if (active_ == nullptr) return;
  if (stream_id == active_->request_stream) active_->request_open = false;
  if (stream_id == active_->response_stream) active_->result.response_whole = !aborted;
  changed_.SignalAll();
}

}  // namespace hearth::control
