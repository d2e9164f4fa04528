// SPDX-License-Identifier: Apache-2.0
// One hearth.agent.v1 connection as a state machine without I/O: feed it what was received, write
// out what it has to send. hearthd and the agent use the same class, one on each side.
//
// Streams carry data one way; the field of the call that names a stream says which
// (StreamsOf in mux_streams.h). SendCall opens them here, the call's arrival opens them there. The
// sender ends a stream with StreamEnd and forgets it; the receiver forgets it when that arrives. A
// receiver that wants no more aborts: what still comes is dropped until the sender, which answers
// an abort with an end of its own, has ended the stream. Ids only grow, so a credit or an
// abort that crossed the end on its way is told from one that names a stream that never was.
//
// The peer is hostile: any breach of the protocol makes Receive() fail with a reason, for good.
//
// Memory: at most kMuxOutputBytes of output, plus one frame for each call in flight, live stream or
// unanswered call; one partial frame of input. Received data is the delegate's from the
// moment it is delivered, at most the granted credit for each stream.
//
// Not thread safe: one thread owns a Mux, and its delegate is called on that thread from inside
// Receive() and ConsumeOutput(). The delegate may call any method but those two, and must not
// destroy the Mux.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hearth/agent/v1/agent.pb.h"
#include "wire/frame.h"
#include "wire/handshake.h"
#include "wire/limits.h"
#include "wire/mux_streams.h"

namespace hearth::wire {

// Above this much unsent output no data, event, call or credit is accepted or made.
inline constexpr size_t kMuxOutputBytes = 512 * 1024;

class MuxDelegate {
 public:
  virtual ~MuxDelegate() = default;

  // The peer's Hello was good; `version` is what is spoken. Comes first and once.
  virtual void OnReady(const agent::v1::Hello& peer, uint32_t version) = 0;

  // By value: who overrides them moves what they get.
  // NOLINTBEGIN(performance-unnecessary-value-param)

  // On the agent's side. Every call must be answered once with SendReply, now or later.
  virtual void OnCall(agent::v1::Call call) { (void)call; }

  // On the host's side. The reply to a call in flight, of the kind that the call has.
  virtual void OnReply(agent::v1::Reply reply) { (void)reply; }
  virtual void OnEvent(agent::v1::Event event) { (void)event; }

  // NOLINTEND(performance-unnecessary-value-param)

  // Data of a receiving stream, in order. The delegate calls Consume() as it is done with it.
  // `data` is valid during the call only.
  virtual void OnStreamData(uint32_t stream_id, absl::string_view data) = 0;

  // A receiving stream was ended by the sender: whole, or aborted with a reason. Or a sending
  // stream was aborted by the receiver. The id is forgotten already. Not called after AbortStream()
  // or EndStream() on this side.
  virtual void OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) = 0;

  // After a SendData() that took less than all: more can go now. Called once for each.
  virtual void OnStreamWritable(uint32_t stream_id) { (void)stream_id; }

  // After SendCall() or SendEvent() answered UNAVAILABLE: there is room again.
  virtual void OnOutputRoom() {}
};

struct MuxOptions {
  MuxSide side = MuxSide::kHost;
  VersionRange versions = {kAgentMinVersion, kAgentMaxVersion};
  std::string build = {};    // Sent in Hello, cut at kMaxHelloStringBytes.
  std::string boot_id = {};  // The agent's side only.
  // Granted on each new stream, 1 to kMaxStreamCreditBytes.
  uint32_t initial_credit_bytes = kInitialStreamCreditBytes;
};

class Mux {
 public:
  // `delegate` outlives the Mux. Hello is in the output at once.
  Mux(MuxOptions options, MuxDelegate* delegate);
  Mux(const Mux&) = delete;
  Mux& operator=(const Mux&) = delete;
  ~Mux();

  // Takes all of `bytes`. An error is a breach of protocol by the peer, and final: close the
  // connection; status() keeps it, and everything but the accessors fails with it from then on.
  // ABORTED: a second Hello, as when another peer has taken the first one's place.
  absl::Status Receive(absl::string_view bytes);

  // The stream under the connection ended. OK when it may end here (between frames, no call in
  // flight, no stream live), else DATA_LOSS.
  absl::Status ReceiveEof();

  const absl::Status& status() const { return status_; }
  bool ready() const { return version_ != 0; }
  uint32_t version() const { return version_; }

  // What is to be written, in order; valid until the next call of any method. Empty: nothing.
  absl::string_view output() const;
  // The first `count` bytes of output() were written.
  void ConsumeOutput(size_t count);

  // Host: an id for a stream to name in the next call. Use ids in the order in which they were
  // given and in that of the call's fields (StreamsOf).
  uint32_t NextStreamId() { return ++last_allocated_stream_id_; }

  // Host: sends a call, sets its id and returns it, and opens the streams that it names.
  // FAILED_PRECONDITION before OnReady; RESOURCE_EXHAUSTED at kMaxCallsInFlight calls or
  // kMaxStreams streams; UNAVAILABLE when the output is full; INVALID_ARGUMENT when it is too big
  // for a frame or a stream id was not got from NextStreamId().
  absl::StatusOr<uint64_t> SendCall(agent::v1::Call call);

  // Agent: answers a call. Unless it reports a started process, streams that the call named and
  // that still live are aborted first.
  absl::Status SendReply(const agent::v1::Reply& reply);

  // Agent: UNAVAILABLE when the output is full.
  absl::Status SendEvent(const agent::v1::Event& event);

  // How many bytes SendData() would take now; 0 for a stream that is not live or not a sending one.
  size_t WritableBytes(uint32_t stream_id) const;

  // Sends the front of `data` as far as the credit and the output have room, and returns how much
  // that was. NOT_FOUND when the stream is not a live sending one (the peer may have aborted it).
  absl::StatusOr<size_t> SendData(uint32_t stream_id, absl::string_view data);

  // Ends a sending stream: all was sent. NOT_FOUND as above.
  absl::Status EndStream(uint32_t stream_id);

  // Ends a stream that is not whole (sending) or not wanted any more (receiving). No-op when it is
  // not live.
  void AbortStream(uint32_t stream_id, absl::string_view reason);

  // `count` bytes of what OnStreamData() delivered are done with: the sender may send as many more.
  // No-op when the stream has ended.
  void Consume(uint32_t stream_id, size_t count);

  size_t live_streams() const { return streams_.size(); }
  size_t calls_in_flight() const { return calls_.size(); }

 private:
  struct Stream {
    uint64_t call_id = 0;
    bool sending = false;
    bool discarding = false;  // Receiving; aborted here, its end not yet arrived.
    bool blocked = false;     // Sending; SendData took less than all.
    uint32_t credit = 0;      // Sending: may send. Receiving: the peer may send.
    uint32_t consumed = 0;    // Receiving: not yet granted again.
  };

  bool OutputFull() const { return output().size() >= kMuxOutputBytes; }
  absl::Status Fail(absl::Status status);
  absl::Status SendFrame(const agent::v1::Frame& frame);
  void SendStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason);
  absl::Status OpenStreamsOf(const agent::v1::Call& call);
  void GrantCredit(uint32_t stream_id, Stream* stream);

  absl::Status HandleFrame(absl::string_view payload);
  absl::Status HandleHello(const agent::v1::Hello& hello);
  absl::Status HandleCall(agent::v1::Call* call);
  absl::Status HandleReply(agent::v1::Reply* reply);
  absl::Status HandleEvent(agent::v1::Event* event);
  absl::Status HandleStreamData(const agent::v1::StreamData& data);
  absl::Status HandleStreamCredit(const agent::v1::StreamCredit& credit);
  absl::Status HandleStreamEnd(const agent::v1::StreamEnd& end);
  absl::Status CheckKnownStream(uint32_t stream_id, absl::string_view message) const;

  const MuxOptions options_;
  MuxDelegate* const delegate_;
  absl::Status status_;
  uint32_t version_ = 0;
  uint32_t peer_initial_credit_ = 0;
  FrameDecoder decoder_{kMaxAgentFrameBytes};
  std::string output_;
  size_t output_begin_ = 0;
  bool output_wanted_ = false;
  uint32_t last_allocated_stream_id_ = 0;
  uint32_t last_opened_stream_id_ = 0;
  uint64_t last_call_id_ = 0;
  std::map<uint32_t, Stream> streams_;
  std::map<uint64_t, agent::v1::Call::CommandCase> calls_;
};

}  // namespace hearth::wire
