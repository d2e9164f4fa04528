// SPDX-License-Identifier: Apache-2.0
// What the peer sends, judged before anything is done with it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "wire/mux.h"

namespace hearth::wire {

using agent::v1::Call;
using agent::v1::Event;
using agent::v1::Frame;
using agent::v1::Hello;
using agent::v1::Reply;

absl::Status Mux::Receive(absl::string_view bytes) {
  RETURN_IF_ERROR(status_);
  while (true) {
    absl::StatusOr<bool> complete = decoder_.Next(&bytes);
    if (!complete.ok()) return Fail(complete.status());
    if (!*complete) return absl::OkStatus();
    if (absl::Status status = HandleFrame(decoder_.payload()); !status.ok()) {
      return Fail(std::move(status));
    }
    // A callback may have met an error of its own, such as a reply that cannot be sent.
    RETURN_IF_ERROR(status_);
  }
}

absl::Status Mux::ReceiveEof() {
  RETURN_IF_ERROR(status_);
  if (decoder_.at_boundary() && calls_.empty() && streams_.empty()) return absl::OkStatus();
  return Fail(
      absl::DataLossError(absl::StrCat("the connection ended with ", calls_.size(),
                                       " calls in flight and ", streams_.size(), " streams open")));
}

absl::Status Mux::HandleFrame(absl::string_view payload) {
  Frame frame;
  if (!frame.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::InvalidArgumentError("a frame that is no hearth.agent.v1.Frame");
  }
  if (!ready() && frame.body_case() != Frame::kHello) {
    return absl::InvalidArgumentError("a message before Hello");
  }
  switch (frame.body_case()) {
    case Frame::kHello:
      return HandleHello(frame.hello());
    case Frame::kCall:
      return HandleCall(frame.mutable_call());
    case Frame::kReply:
      return HandleReply(frame.mutable_reply());
    case Frame::kEvent:
      return HandleEvent(frame.mutable_event());
    case Frame::kStreamData:
      return HandleStreamData(frame.stream_data());
    case Frame::kStreamCredit:
      return HandleStreamCredit(frame.stream_credit());
    case Frame::kStreamEnd:
      return HandleStreamEnd(frame.stream_end());
    case Frame::BODY_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("a frame without a body that this version knows");
}

absl::Status Mux::HandleHello(const Hello& hello) {
  if (ready()) return absl::AbortedError("a second Hello");
  if (hello.build().size() > kMaxHelloStringBytes ||
      hello.boot_id().size() > kMaxHelloStringBytes) {
    return absl::InvalidArgumentError("a Hello with a string over the limit");
  }
  // The version first: what the other fields may hold is the version's to say.
  const absl::string_view peer = options_.side == MuxSide::kHost ? "the agent" : "the host";
  ASSIGN_OR_RETURN(const uint32_t version,
                   NegotiateVersion("hearth.agent.v1", peer, options_.versions,
                                    {hello.min_version(), hello.max_version()}));
  if (hello.initial_credit_bytes() == 0 || hello.initial_credit_bytes() > kMaxStreamCreditBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a Hello that grants ", hello.initial_credit_bytes(), " bytes on each stream"));
  }
  version_ = version;
  peer_initial_credit_ = hello.initial_credit_bytes();
  delegate_->OnReady(hello, version_);
  return absl::OkStatus();
}

absl::Status Mux::HandleCall(Call* call) {
  if (options_.side != MuxSide::kAgent) return absl::InvalidArgumentError("a Call from the agent");
  if (call->id() <= last_call_id_) {
    return absl::InvalidArgumentError(
        absl::StrCat("call id ", call->id(), " is not above ", last_call_id_));
  }
  if (calls_.size() >= kMaxCallsInFlight) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxCallsInFlight, " calls in flight"));
  }
  if (call->command_case() == Call::COMMAND_NOT_SET) {
    return absl::InvalidArgumentError("a call without a command that this version knows");
  }
  RETURN_IF_ERROR(OpenStreamsOf(*call));
  last_call_id_ = call->id();
  calls_.emplace(call->id(), call->command_case());
  delegate_->OnCall(std::move(*call));
  return absl::OkStatus();
}

absl::Status Mux::HandleReply(Reply* reply) {
  if (options_.side != MuxSide::kHost) return absl::InvalidArgumentError("a Reply from the host");
  auto it = calls_.find(reply->id());
  if (it == calls_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a reply to call ", reply->id(), ", which is not in flight"));
  }
  if (!ReplyFits(it->second, *reply)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the reply to call ", reply->id(), " is not of the call's kind"));
  }
  calls_.erase(it);
  delegate_->OnReply(std::move(*reply));
  return absl::OkStatus();
}

absl::Status Mux::HandleEvent(Event* event) {
  if (options_.side != MuxSide::kHost) return absl::InvalidArgumentError("an Event from the host");
  for (const agent::v1::LogLine& line : event->log_lines().lines()) {
    if (line.text().size() > kMaxLogLineBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a log line of ", line.text().size(), " bytes is over the limit of ", kMaxLogLineBytes));
    }
  }
  delegate_->OnEvent(std::move(*event));
  return absl::OkStatus();
}

absl::Status Mux::CheckKnownStream(uint32_t stream_id, absl::string_view message) const {
  if (stream_id != 0 && stream_id <= last_opened_stream_id_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(message, " names stream ", stream_id, ", which was never opened"));
}

absl::Status Mux::HandleStreamData(const agent::v1::StreamData& data) {
  const uint32_t id = data.stream_id();
  auto it = streams_.find(id);
  // A stream that is forgotten here was ended by the peer itself, so nothing may follow on it.
  if (it == streams_.end() || it->second.sending) {
    return absl::InvalidArgumentError(
        absl::StrCat("data on stream ", id, ", which the peer does not send on"));
  }
  const size_t size = data.data().size();
  if (size == 0 || size > kMaxStreamChunkBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk of ", size, " bytes on stream ", id));
  }
  if (size > it->second.credit) {
    return absl::InvalidArgumentError(absl::StrCat("stream ", id, " overruns its credit: ", size,
                                                   " bytes, ", it->second.credit, " granted"));
  }
  it->second.credit -= static_cast<uint32_t>(size);
  if (!it->second.discarding) delegate_->OnStreamData(id, data.data());
  return absl::OkStatus();
}

absl::Status Mux::HandleStreamCredit(const agent::v1::StreamCredit& credit) {
  const uint32_t id = credit.stream_id();
  RETURN_IF_ERROR(CheckKnownStream(id, "a credit"));
  auto it = streams_.find(id);
  if (it == streams_.end()) return absl::OkStatus();  // It crossed our end.
  if (!it->second.sending) {
    return absl::InvalidArgumentError(
        absl::StrCat("a credit on stream ", id, ", on which this side does not send"));
  }
  if (credit.bytes() == 0 || credit.bytes() > kMaxStreamCreditBytes - it->second.credit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a credit of ", credit.bytes(), " bytes on top of ", it->second.credit, " on stream ", id));
  }
  it->second.credit += credit.bytes();
  if (it->second.blocked && WritableBytes(id) > 0) {
    it->second.blocked = false;
    delegate_->OnStreamWritable(id);
  }
  return absl::OkStatus();
}

absl::Status Mux::HandleStreamEnd(const agent::v1::StreamEnd& end) {
  const uint32_t id = end.stream_id();
  RETURN_IF_ERROR(CheckKnownStream(id, "an end"));
  auto it = streams_.find(id);
  if (it == streams_.end()) return absl::OkStatus();  // An abort that crossed our end.
  const Stream stream = it->second;
  if (stream.sending && !end.aborted()) {
    return absl::InvalidArgumentError(
        absl::StrCat("an end of stream ", id, " by its receiver that is no abort"));
  }
  streams_.erase(it);
  if (stream.sending) SendStreamEnd(id, true, "aborted by the receiver");
  if (!stream.discarding) delegate_->OnStreamEnd(id, end.aborted(), end.reason());
  return absl::OkStatus();
}

}  // namespace hearth::wire
