// SPDX-License-Identifier: Apache-2.0
// What this side sends; what it receives is in mux_receive.cc.
#include "wire/mux.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::wire {

using agent::v1::Call;
using agent::v1::Event;
using agent::v1::Frame;
using agent::v1::Reply;

namespace {

// The end of a stream tells why in a sentence, not in a document.
constexpr size_t kMaxReasonBytes = 256;

}  // namespace

Mux::Mux(MuxOptions options, MuxDelegate* delegate)
    : options_(std::move(options)), delegate_(delegate) {
  Frame frame;
  frame.mutable_hello()->set_min_version(options_.versions.min);
  frame.mutable_hello()->set_max_version(options_.versions.max);
  frame.mutable_hello()->set_build(options_.build.substr(0, kMaxHelloStringBytes));
  frame.mutable_hello()->set_boot_id(options_.boot_id.substr(0, kMaxHelloStringBytes));
  frame.mutable_hello()->set_initial_credit_bytes(options_.initial_credit_bytes);
  status_ = SendFrame(frame);
}

Mux::~Mux() = default;

absl::string_view Mux::output() const { return absl::string_view(output_).substr(output_begin_); }

void Mux::ConsumeOutput(size_t count) {
  output_begin_ += std::min(count, output_.size() - output_begin_);
  if (output_begin_ == output_.size()) {
    output_.clear();
    output_begin_ = 0;
  } else if (output_begin_ >= kMuxOutputBytes / 2) {
    output_.erase(0, output_begin_);
    output_begin_ = 0;
  }
  if (!status_.ok() || !ready()) return;
  // Resume at half, so that a slow peer costs a few large rounds and not many small ones.
  if (output().size() > kMuxOutputBytes / 2) return;
  for (auto& [id, stream] : streams_) {
    if (!stream.sending) GrantCredit(id, &stream);
  }
  // The delegate may end or open streams: walk by id, not by iterator.
  uint32_t last_id = 0;
  for (auto it = streams_.upper_bound(last_id); it != streams_.end();
       it = streams_.upper_bound(last_id)) {
    last_id = it->first;
    if (!it->second.blocked || WritableBytes(last_id) == 0) continue;
    it->second.blocked = false;
    delegate_->OnStreamWritable(last_id);
  }
  if (output_wanted_ && !OutputFull()) {
    output_wanted_ = false;
    delegate_->OnOutputRoom();
  }
}

absl::Status Mux::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
  return status_;
}

absl::Status Mux::SendFrame(const Frame& frame) {
  return AppendFrame(frame.SerializeAsString(), kMaxAgentFrameBytes, &output_);
}

void Mux::SendStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) {
  Frame frame;
  frame.mutable_stream_end()->set_stream_id(stream_id);
  frame.mutable_stream_end()->set_aborted(aborted);
  frame.mutable_stream_end()->set_reason(std::string(reason.substr(0, kMaxReasonBytes)));
  // Far below the limit of a frame, so this cannot fail.
  SendFrame(frame).IgnoreError();
}

absl::Status Mux::OpenStreamsOf(const Call& call) {
  const NamedStreams named = StreamsOf(call);
  uint32_t previous = last_opened_stream_id_;
  for (size_t i = 0; i < named.count; ++i) {
    if (named.streams[i].id <= previous) {
      return absl::InvalidArgumentError(absl::StrCat("call ", call.id(), " names stream ",
                                                     named.streams[i].id, ", which is not above ",
                                                     previous));
    }
    previous = named.streams[i].id;
  }
  if (streams_.size() + named.count > kMaxStreams) {
    return absl::ResourceExhaustedError(
        absl::StrCat("call ", call.id(), " would make more than ", kMaxStreams, " live streams"));
  }
  const bool is_agent = options_.side == MuxSide::kAgent;
  for (size_t i = 0; i < named.count; ++i) {
    Stream stream;
    stream.call_id = call.id();
    stream.sending = named.streams[i].to_agent != is_agent;
    stream.credit = stream.sending ? peer_initial_credit_ : options_.initial_credit_bytes;
    streams_.emplace(named.streams[i].id, stream);
  }
  last_opened_stream_id_ = previous;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Mux::SendCall(Call call) {
  RETURN_IF_ERROR(status_);
  if (!ready()) return absl::FailedPreconditionError("the peer has not said Hello yet");
  if (calls_.size() >= kMaxCallsInFlight) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxCallsInFlight, " calls in flight"));
  }
  if (OutputFull()) {
    output_wanted_ = true;
    return absl::UnavailableError("the connection's output is full");
  }
  const NamedStreams named = StreamsOf(call);
  for (size_t i = 0; i < named.count; ++i) {
    if (named.streams[i].id > last_allocated_stream_id_) {
      return absl::InvalidArgumentError(
          absl::StrCat("stream id ", named.streams[i].id, " was not got from NextStreamId()"));
    }
  }
  call.set_id(last_call_id_ + 1);
  Frame frame;
  *frame.mutable_call() = std::move(call);
  const std::string payload = frame.SerializeAsString();
  if (payload.size() > kMaxAgentFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a call of ", payload.size(), " bytes is over the limit of ", kMaxAgentFrameBytes));
  }
  RETURN_IF_ERROR(OpenStreamsOf(frame.call()));
  RETURN_IF_ERROR(AppendFrame(payload, kMaxAgentFrameBytes, &output_));
  calls_.emplace(++last_call_id_, frame.call().command_case());
  return last_call_id_;
}

absl::Status Mux::SendReply(const Reply& reply) {
  RETURN_IF_ERROR(status_);
  auto it = calls_.find(reply.id());
  if (it == calls_.end()) {
    return absl::NotFoundError(absl::StrCat("no call ", reply.id(), " is in flight"));
  }
  if (!ReplyFits(it->second, reply)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the reply to call ", reply.id(), " is not of the call's kind"));
  }
  Frame frame;
  *frame.mutable_reply() = reply;
  const std::string payload = frame.SerializeAsString();
  if (payload.size() > kMaxAgentFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a reply of ", payload.size(), " bytes is over the limit of ", kMaxAgentFrameBytes));
  }
  if (!reply.has_process_started()) {
    uint32_t last_id = 0;
    for (auto stream = streams_.upper_bound(last_id); stream != streams_.end();
         stream = streams_.upper_bound(last_id)) {
      last_id = stream->first;
      if (stream->second.call_id == reply.id()) AbortStream(last_id, "the call has ended");
    }
  }
  calls_.erase(it);
  return AppendFrame(payload, kMaxAgentFrameBytes, &output_);
}

absl::Status Mux::SendEvent(const Event& event) {
  RETURN_IF_ERROR(status_);
  if (!ready()) return absl::FailedPreconditionError("the peer has not said Hello yet");
  if (OutputFull()) {
    output_wanted_ = true;
    return absl::UnavailableError("the connection's output is full");
  }
  Frame frame;
  *frame.mutable_event() = event;
  return SendFrame(frame);
}

size_t Mux::WritableBytes(uint32_t stream_id) const {
  auto it = streams_.find(stream_id);
  if (!status_.ok() || it == streams_.end() || !it->second.sending || OutputFull()) return 0;
  return std::min<size_t>(it->second.credit, kMuxOutputBytes - output().size());
}

absl::StatusOr<size_t> Mux::SendData(uint32_t stream_id, absl::string_view data) {
  RETURN_IF_ERROR(status_);
  auto it = streams_.find(stream_id);
  if (it == streams_.end() || !it->second.sending) {
    return absl::NotFoundError(absl::StrCat("no sending stream ", stream_id));
  }
  size_t sent = 0;
  while (sent < data.size()) {
    const size_t count =
        std::min({WritableBytes(stream_id), data.size() - sent, kMaxStreamChunkBytes});
    if (count == 0) {
      it->second.blocked = true;
      break;
    }
    Frame frame;
    frame.mutable_stream_data()->set_stream_id(stream_id);
    frame.mutable_stream_data()->set_data(std::string(data.substr(sent, count)));
    RETURN_IF_ERROR(SendFrame(frame));
    it->second.credit -= static_cast<uint32_t>(count);
    sent += count;
  }
  return sent;
}

absl::Status Mux::EndStream(uint32_t stream_id) {
  RETURN_IF_ERROR(status_);
  auto it = streams_.find(stream_id);
  if (it == streams_.end() || !it->second.sending) {
    return absl::NotFoundError(absl::StrCat("no sending stream ", stream_id));
  }
  streams_.erase(it);
  SendStreamEnd(stream_id, false, "");
  return absl::OkStatus();
}

void Mux::AbortStream(uint32_t stream_id, absl::string_view reason) {
  auto it = streams_.find(stream_id);
  if (!status_.ok() || it == streams_.end() || it->second.discarding) return;
  if (it->second.sending) {
    streams_.erase(it);
  } else {
    it->second.discarding = true;
  }
  SendStreamEnd(stream_id, true, reason);
}

void Mux::Consume(uint32_t stream_id, size_t count) {
  auto it = streams_.find(stream_id);
  if (it == streams_.end() || it->second.sending || it->second.discarding) return;
  // Credit and unconsumed data together never exceed the window, whatever the caller counts.
  const uint32_t outstanding =
      options_.initial_credit_bytes - it->second.credit - it->second.consumed;
  it->second.consumed += static_cast<uint32_t>(std::min<size_t>(count, outstanding));
  GrantCredit(stream_id, &it->second);
}

void Mux::GrantCredit(uint32_t stream_id, Stream* stream) {
  // Half a window at a time. While the output is full the grant waits, so that a peer which sends
  // and never reads cannot make the output grow.
  if (stream->discarding || stream->consumed == 0 || OutputFull()) return;
  if (stream->consumed < (options_.initial_credit_bytes + 1) / 2) return;
  Frame frame;
  frame.mutable_stream_credit()->set_stream_id(stream_id);
  frame.mutable_stream_credit()->set_bytes(stream->consumed);
  if (!SendFrame(frame).ok()) return;
  stream->credit += stream->consumed;
  stream->consumed = 0;
}

}  // namespace hearth::wire
