// SPDX-License-Identifier: Apache-2.0
#include "wire/mux.h"

#include <catch2/catch.hpp>
#include <functional>
#include <optional>
#include <vector>

namespace hearth::wire {
namespace {

using agent::v1::Call;
using agent::v1::Event;
using agent::v1::Frame;
using agent::v1::Hello;
using agent::v1::Reply;

// Remembers what was delivered.
struct Recorder : MuxDelegate {
  void OnReady(const Hello& peer, uint32_t version) override {
    hello = peer;
    ready_version = version;
  }
  void OnCall(Call call) override {
    calls.push_back(call);
    if (on_call) on_call(call);
  }
  void OnReply(Reply reply) override { replies.push_back(std::move(reply)); }
  void OnEvent(Event event) override { events.push_back(std::move(event)); }
  void OnStreamData(uint32_t id, absl::string_view data) override {
    received[id].append(data.data(), data.size());
  }
  void OnStreamEnd(uint32_t id, bool aborted, absl::string_view reason) override {
    ends[id] = {aborted, std::string(reason)};
  }
  void OnStreamWritable(uint32_t id) override { writable.push_back(id); }
  void OnOutputRoom() override { ++output_rooms; }

  struct End {
    bool aborted = false;
    std::string reason;
  };
  std::optional<Hello> hello;
  uint32_t ready_version = 0;
  std::vector<Call> calls;
  std::function<void(const Call&)> on_call;
  std::vector<Reply> replies;
  std::vector<Event> events;
  std::map<uint32_t, std::string> received;
  std::map<uint32_t, End> ends;
  std::vector<uint32_t> writable;
  int output_rooms = 0;
};

// A host and an agent with a perfect wire between them.
struct Pair {
  explicit Pair(uint32_t credit = kInitialStreamCreditBytes)
      : host({.side = MuxSide::kHost, .initial_credit_bytes = credit}, &at_host),
        agent({.side = MuxSide::kAgent, .boot_id = "boot-7c", .initial_credit_bytes = credit},
              &at_agent) {
    Move();
    REQUIRE(host.ready());
    REQUIRE(agent.ready());
  }
  bool MoveOne(Mux* from, Mux* to) {
    const std::string bytes(from->output());
    from->ConsumeOutput(bytes.size());
    INFO(to->status().message());
    REQUIRE(to->Receive(bytes).ok());
    return !bytes.empty();
  }
  void Move() {
    bool more = true;
    while (more) {
      more = MoveOne(&host, &agent);
      more |= MoveOne(&agent, &host);
    }
  }
  struct Streams {
    uint64_t call_id = 0;
    uint32_t to_agent = 0;
    uint32_t to_host = 0;
  };
  Streams Invoke() {
    Streams streams{.to_agent = host.NextStreamId(), .to_host = host.NextStreamId()};
    Call call;
    call.mutable_invoke()->set_request_stream(streams.to_agent);
    call.mutable_invoke()->set_response_stream(streams.to_host);
    absl::StatusOr<uint64_t> id = host.SendCall(call);
    REQUIRE(id.ok());
    streams.call_id = *id;
    return streams;
  }
  Recorder at_host, at_agent;
  Mux host, agent;
};

std::string Encode(const Frame& frame) {
  std::string out;
  REQUIRE(AppendFrame(frame.SerializeAsString(), kMaxAgentFrameBytes, &out).ok());
  return out;
}

Frame HelloFrame() {
  Frame frame;
  frame.mutable_hello()->set_min_version(1);
  frame.mutable_hello()->set_max_version(1);
  frame.mutable_hello()->set_initial_credit_bytes(kInitialStreamCreditBytes);
  return frame;
}

// A host that has sent one Invoke (streams 1 to the agent, 2 to the host), and what it answers to a
// frame of a hostile agent.
absl::Status HostAnswerTo(const std::function<void(Frame*)>& fill) {
  Recorder recorder;
  Mux host({.side = MuxSide::kHost}, &recorder);
  REQUIRE(host.Receive(Encode(HelloFrame())).ok());
  Call call;
  call.mutable_invoke()->set_request_stream(host.NextStreamId());
  call.mutable_invoke()->set_response_stream(host.NextStreamId());
  REQUIRE(host.SendCall(call).ok());
  Frame frame;
  fill(&frame);
  return host.Receive(Encode(frame));
}

TEST_CASE("mux: both sides say Hello and speak the highest common version") {
  Pair pair;
  REQUIRE(pair.at_host.hello->boot_id() == "boot-7c");
  REQUIRE(pair.at_host.ready_version == 1);
  REQUIRE(pair.at_agent.ready_version == 1);
}

TEST_CASE("mux: an agent of an unknown version ends the connection with a clear reason") {
  Recorder recorder;
  Mux host({.side = MuxSide::kHost}, &recorder);
  Frame frame = HelloFrame();
  frame.mutable_hello()->set_min_version(7);
  frame.mutable_hello()->set_max_version(9);
  // What the rest of its Hello says is that version's business.
  frame.mutable_hello()->clear_initial_credit_bytes();
  const absl::Status status = host.Receive(Encode(frame));
  REQUIRE(status.code() == absl::StatusCode::kFailedPrecondition);
  REQUIRE(status.message() ==
          "no version of hearth.agent.v1 in common: the agent speaks 7 to 9, this side 1 to 1; "
          "this side is too old");
  REQUIRE_FALSE(recorder.hello.has_value());
}

TEST_CASE("mux: nothing may come before Hello, and Hello only once") {
  Recorder recorder;
  Mux host({.side = MuxSide::kHost}, &recorder);
  Frame frame;
  frame.mutable_event()->mutable_log_lines();
  REQUIRE(host.Receive(Encode(frame)).message() == "a message before Hello");
  REQUIRE(HostAnswerTo([](Frame* f) { *f = HelloFrame(); }).message() == "a second Hello");
  REQUIRE(host.SendCall(Call()).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("mux: a call reaches the agent, its reply the host") {
  Pair pair;
  Call call;
  call.mutable_wait_process()->set_process_id(5);
  const uint64_t id = *pair.host.SendCall(call);
  pair.Move();
  REQUIRE(pair.at_agent.calls.size() == 1);
  REQUIRE(pair.at_agent.calls[0].wait_process().process_id() == 5);
  Reply reply;
  reply.set_id(id);
  reply.mutable_process_exit()->set_exit_code(3);
  REQUIRE(pair.agent.SendReply(reply).ok());
  REQUIRE(pair.agent.SendReply(reply).code() == absl::StatusCode::kNotFound);
  pair.Move();
  REQUIRE(pair.at_host.replies.size() == 1);
  REQUIRE(pair.at_host.replies[0].process_exit().exit_code() == 3);
  REQUIRE(pair.host.calls_in_flight() == 0);
  REQUIRE(pair.host.ReceiveEof().ok());
}

TEST_CASE("mux: a snapshot's calls get replies of their own kinds only") {
  Pair pair;
  Call prepare, restore;
  prepare.mutable_prepare_snapshot();
  restore.mutable_restore_instance();
  const uint64_t first = *pair.host.SendCall(prepare);
  const uint64_t second = *pair.host.SendCall(restore);
  pair.Move();
  Reply reply;
  reply.set_id(first);
  reply.mutable_instance_restored();
  REQUIRE(pair.agent.SendReply(reply).code() == absl::StatusCode::kInvalidArgument);
  reply.mutable_snapshot_prepared()->set_hooks_ns(7);
  REQUIRE(pair.agent.SendReply(reply).ok());
  reply.set_id(second);
  REQUIRE(pair.agent.SendReply(reply).code() == absl::StatusCode::kInvalidArgument);
  reply.mutable_instance_restored()->set_boot_id("new");
  REQUIRE(pair.agent.SendReply(reply).ok());
  pair.Move();
  REQUIRE(pair.at_host.replies[0].snapshot_prepared().hooks_ns() == 7);
  REQUIRE(pair.at_host.replies[1].instance_restored().boot_id() == "new");
}

TEST_CASE("mux: data flows within the credit and goes on as the receiver consumes") {
  Pair pair(1000);
  const Pair::Streams streams = pair.Invoke();
  const std::string payload(2500, 'p');
  size_t sent = *pair.host.SendData(streams.to_agent, payload);
  REQUIRE(sent == 1000);
  REQUIRE(pair.host.WritableBytes(streams.to_agent) == 0);
  pair.Move();
  REQUIRE(pair.at_host.writable.empty());
  while (sent < payload.size()) {
    pair.agent.Consume(streams.to_agent, 1000);
    pair.Move();
    REQUIRE(pair.at_host.writable == std::vector<uint32_t>{streams.to_agent});
    pair.at_host.writable.clear();
    sent += *pair.host.SendData(streams.to_agent, absl::string_view(payload).substr(sent));
    pair.Move();
  }
  REQUIRE(pair.host.EndStream(streams.to_agent).ok());
  pair.Move();
  REQUIRE(pair.at_agent.received[streams.to_agent] == payload);
  REQUIRE_FALSE(pair.at_agent.ends.at(streams.to_agent).aborted);
  REQUIRE(pair.agent.live_streams() == 1);
}

TEST_CASE("mux: consuming more than was received grants no more than the window") {
  Pair pair(1000);
  const Pair::Streams streams = pair.Invoke();
  pair.Move();
  pair.agent.Consume(streams.to_agent, 1 << 20);
  REQUIRE(*pair.host.SendData(streams.to_agent, std::string(900, 'x')) == 900);
  pair.Move();
  pair.agent.Consume(streams.to_agent, 1 << 20);
  pair.Move();
  REQUIRE(pair.host.WritableBytes(streams.to_agent) == 1000);
}

TEST_CASE("mux: the output is bounded whatever the credit, and says when there is room again") {
  Pair pair(kMaxStreamCreditBytes);
  const Pair::Streams streams = pair.Invoke();
  const std::string payload(2 * kMuxOutputBytes, 'x');
  const size_t sent = *pair.host.SendData(streams.to_agent, payload);
  REQUIRE(sent < payload.size());
  REQUIRE(pair.host.output().size() < kMuxOutputBytes + 1024);
  Call call;
  call.mutable_shutdown();
  REQUIRE(pair.host.SendCall(call).status().code() == absl::StatusCode::kUnavailable);
  pair.host.ConsumeOutput(pair.host.output().size() - 100);
  REQUIRE(pair.at_host.writable == std::vector<uint32_t>{streams.to_agent});
  REQUIRE(pair.at_host.output_rooms == 1);
  REQUIRE(pair.host.SendCall(call).ok());
}

TEST_CASE("mux: events are refused when the output is full and accepted again later") {
  Pair pair;
  Event event;
  event.mutable_log_lines()->add_lines()->set_text(std::string(kMaxLogLineBytes, 'l'));
  while (pair.agent.SendEvent(event).ok()) {
  }
  REQUIRE(pair.agent.SendEvent(event).code() == absl::StatusCode::kUnavailable);
  pair.Move();
  REQUIRE(pair.at_agent.output_rooms == 1);
  REQUIRE(pair.agent.SendEvent(event).ok());
  REQUIRE(pair.at_host.events.size() == kMuxOutputBytes / kMaxLogLineBytes);
}

TEST_CASE("mux: a receiver that aborts is left alone, and the sender learns why") {
  Pair pair;
  const Pair::Streams streams = pair.Invoke();
  pair.Move();
  pair.agent.AbortStream(streams.to_agent, "no one reads");
  // This data crosses the abort.
  REQUIRE(*pair.host.SendData(streams.to_agent, "late") == 4);
  pair.Move();
  REQUIRE(pair.at_agent.received.empty());
  REQUIRE(pair.at_host.ends.at(streams.to_agent).aborted);
  REQUIRE(pair.at_host.ends.at(streams.to_agent).reason == "no one reads");
  REQUIRE(pair.at_agent.ends.empty());
  REQUIRE(pair.host.SendData(streams.to_agent, "x").status().code() == absl::StatusCode::kNotFound);
  REQUIRE(pair.agent.live_streams() == 1);
}

TEST_CASE("mux: an abort or a credit that crosses the end of its stream does no harm") {
  Pair pair(100);
  const Pair::Streams streams = pair.Invoke();
  REQUIRE(*pair.host.SendData(streams.to_agent, std::string(100, 'x')) == 100);
  pair.MoveOne(&pair.host, &pair.agent);
  pair.agent.Consume(streams.to_agent, 100);
  pair.agent.AbortStream(streams.to_agent, "enough");
  REQUIRE(pair.host.EndStream(streams.to_agent).ok());
  pair.Move();
  REQUIRE(pair.host.live_streams() == 1);
  REQUIRE(pair.agent.live_streams() == 1);
}

TEST_CASE("mux: a sender's abort says that what came is not whole") {
  Pair pair;
  const Pair::Streams streams = pair.Invoke();
  pair.Move();
  REQUIRE(*pair.agent.SendData(streams.to_host, "half") == 4);
  pair.agent.AbortStream(streams.to_host, "Runtime.ExitError");
  pair.Move();
  REQUIRE(pair.at_host.received[streams.to_host] == "half");
  REQUIRE(pair.at_host.ends.at(streams.to_host).aborted);
  REQUIRE(pair.at_host.ends.at(streams.to_host).reason == "Runtime.ExitError");
}

TEST_CASE("mux: a reply ends the streams of its call, but not those of a started process") {
  Pair pair;
  const Pair::Streams streams = pair.Invoke();
  Call start;
  start.mutable_start_process()->mutable_process()->set_stdin_stream(pair.host.NextStreamId());
  const uint64_t start_id = *pair.host.SendCall(start);
  pair.Move();
  Reply reply;
  reply.set_id(streams.call_id);
  reply.mutable_invocation_result();
  REQUIRE(pair.agent.SendReply(reply).ok());
  Reply started;
  started.set_id(start_id);
  started.mutable_process_started();
  REQUIRE(pair.agent.SendReply(started).ok());
  pair.Move();
  REQUIRE(pair.at_host.ends.size() == 2);
  REQUIRE(pair.host.live_streams() == 1);
  REQUIRE(pair.agent.live_streams() == 1);
  REQUIRE(pair.host.ReceiveEof().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("mux: more streams or calls than the limits are refused on the sending side") {
  Pair pair;
  for (size_t i = 0; i < kMaxStreams / 2; ++i) pair.Invoke();
  Call call;
  call.mutable_invoke()->set_request_stream(pair.host.NextStreamId());
  REQUIRE(pair.host.SendCall(call).status().code() == absl::StatusCode::kResourceExhausted);
  Call wait;
  wait.mutable_wait_process();
  while (pair.host.calls_in_flight() < kMaxCallsInFlight) REQUIRE(pair.host.SendCall(wait).ok());
  REQUIRE(pair.host.SendCall(wait).status().code() == absl::StatusCode::kResourceExhausted);
  pair.Move();
  REQUIRE(pair.agent.calls_in_flight() == kMaxCallsInFlight);
}

TEST_CASE("mux: the agent refuses calls out of order, stream ids used twice and unknown commands") {
  const auto answer = [](std::vector<Call> calls) {
    Recorder recorder;
    Mux agent({.side = MuxSide::kAgent}, &recorder);
    absl::Status status = agent.Receive(Encode(HelloFrame()));
    for (Call& call : calls) {
      Frame frame;
      *frame.mutable_call() = call;
      status = agent.Receive(Encode(frame));
    }
    return std::string(status.message());
  };
  Call wait;
  wait.set_id(4);
  wait.mutable_wait_process();
  REQUIRE(answer({wait}) == "");
  REQUIRE(answer({wait, wait}) == "call id 4 is not above 4");
  Call twice;
  twice.set_id(1);
  twice.mutable_invoke()->set_request_stream(3);
  twice.mutable_invoke()->set_response_stream(3);
  REQUIRE(answer({twice}) == "call 1 names stream 3, which is not above 3");
  Call empty;
  empty.set_id(1);
  REQUIRE(answer({empty}) == "a call without a command that this version knows");
}

TEST_CASE("mux: the host ends the connection on any breach by the agent") {
  const auto data = [](uint32_t id, size_t size) {
    return HostAnswerTo([&](Frame* f) {
      f->mutable_stream_data()->set_stream_id(id);
      f->mutable_stream_data()->set_data(std::string(size, 'x'));
    });
  };
  REQUIRE(data(2, 1).ok());
  REQUIRE(data(2, 0).message() == "a chunk of 0 bytes on stream 2");
  REQUIRE(data(2, kMaxStreamChunkBytes + 1).message() == "a chunk of 65537 bytes on stream 2");
  REQUIRE(data(1, 1).message() == "data on stream 1, which the peer does not send on");
  REQUIRE(data(3, 1).message() == "data on stream 3, which the peer does not send on");

  const auto credit = [](uint32_t id, uint32_t bytes) {
    return HostAnswerTo([&](Frame* f) {
      f->mutable_stream_credit()->set_stream_id(id);
      f->mutable_stream_credit()->set_bytes(bytes);
    });
  };
  REQUIRE(credit(1, 1).ok());
  REQUIRE(credit(1, kMaxStreamCreditBytes - kInitialStreamCreditBytes).ok());
  REQUIRE_FALSE(credit(1, kMaxStreamCreditBytes - kInitialStreamCreditBytes + 1).ok());
  REQUIRE_FALSE(credit(1, UINT32_MAX).ok());
  REQUIRE_FALSE(credit(1, 0).ok());
  REQUIRE_FALSE(credit(2, 1).ok());
  REQUIRE(credit(3, 1).message() == "a credit names stream 3, which was never opened");

  const auto end = [](uint32_t id, bool aborted) {
    return HostAnswerTo([&](Frame* f) {
      f->mutable_stream_end()->set_stream_id(id);
      f->mutable_stream_end()->set_aborted(aborted);
    });
  };
  REQUIRE(end(2, false).ok());
  REQUIRE(end(1, true).ok());
  REQUIRE_FALSE(end(1, false).ok());
  REQUIRE(end(3, true).message() == "an end names stream 3, which was never opened");
  REQUIRE(end(0, true).message() == "an end names stream 0, which was never opened");

  REQUIRE(HostAnswerTo([](Frame* f) { f->mutable_call()->mutable_shutdown(); }).message() ==
          "a Call from the agent");
  REQUIRE(HostAnswerTo([](Frame*) {}).message() ==
          "a frame without a body that this version knows");
  REQUIRE(HostAnswerTo([](Frame* f) { f->mutable_reply()->set_id(9); }).message() ==
          "a reply to call 9, which is not in flight");
  REQUIRE(HostAnswerTo([](Frame* f) {
            f->mutable_reply()->set_id(1);
            f->mutable_reply()->mutable_process_exit();
          }).message() == "the reply to call 1 is not of the call's kind");
  REQUIRE(HostAnswerTo([](Frame* f) {
            f->mutable_event()->mutable_log_lines()->add_lines()->set_text(
                std::string(kMaxLogLineBytes + 1, 'x'));
          }).message() == "a log line of 16385 bytes is over the limit of 16384");
}

TEST_CASE("mux: an agent that overruns its credit ends the connection, and the error stays") {
  Recorder recorder;
  Mux host({.side = MuxSide::kHost, .initial_credit_bytes = 10}, &recorder);
  REQUIRE(host.Receive(Encode(HelloFrame())).ok());
  Call call;
  call.mutable_invoke()->set_response_stream(host.NextStreamId());
  REQUIRE(host.SendCall(call).ok());
  Frame frame;
  frame.mutable_stream_data()->set_stream_id(1);
  frame.mutable_stream_data()->set_data("12345678901");
  const absl::Status status = host.Receive(Encode(frame));
  REQUIRE(status.message() == "stream 1 overruns its credit: 11 bytes, 10 granted");
  REQUIRE(host.status() == status);
  REQUIRE(host.Receive(Encode(HelloFrame())) == status);
  REQUIRE(host.SendCall(call).status() == status);
  REQUIRE(recorder.received.empty());
}

TEST_CASE("mux: a peer that sends and never reads cannot make the output grow") {
  Recorder recorder;
  Mux host({.side = MuxSide::kHost, .initial_credit_bytes = 2}, &recorder);
  REQUIRE(host.Receive(Encode(HelloFrame())).ok());
  Call call;
  call.mutable_invoke()->set_response_stream(host.NextStreamId());
  REQUIRE(host.SendCall(call).ok());
  Frame frame;
  frame.mutable_stream_data()->set_stream_id(1);
  frame.mutable_stream_data()->set_data("x");
  const std::string bytes = Encode(frame);
  absl::Status status;
  for (size_t i = 0; i < kMuxOutputBytes && status.ok(); ++i) {
    status = host.Receive(bytes);
    host.Consume(1, 1);
  }
  REQUIRE_FALSE(status.ok());
  REQUIRE(host.output().size() < kMuxOutputBytes + 64);
}

TEST_CASE("mux: the delegate may answer a call from inside OnCall") {
  Pair pair;
  pair.at_agent.on_call = [&](const Call& call) {
    Reply reply;
    reply.set_id(call.id());
    reply.mutable_error()->set_code(3);
    REQUIRE(pair.agent.SendReply(reply).ok());
  };
  pair.Invoke();
  pair.Move();
  REQUIRE(pair.at_host.replies.at(0).error().code() == 3);
  REQUIRE(pair.host.live_streams() == 0);
  REQUIRE(pair.agent.live_streams() == 0);
}

}  // namespace
}  // namespace hearth::wire
