// SPDX-License-Identifier: Apache-2.0
// The multiplexer against a peer that sends anything. The input is a sequence of records: a byte
// that chooses between bytes from the peer and an action of the owner, a length byte, and that many
// bytes. The first byte of all chooses the side. Invariants: bounded output, streams and calls, no
// delivery after an error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "wire/mux.h"

namespace {

using hearth::wire::Mux;
using hearth::wire::MuxSide;
namespace v1 = hearth::agent::v1;

constexpr uint32_t kWindow = 64;

struct Owner : hearth::wire::MuxDelegate {
  void OnReady(const v1::Hello&, uint32_t) override { Delivered(); }
  void OnCall(v1::Call call) override {
    Delivered();
    calls.push_back(call.id());
  }
  void OnReply(v1::Reply) override { Delivered(); }
  void OnEvent(v1::Event) override { Delivered(); }
  void OnStreamData(uint32_t id, absl::string_view data) override {
    Delivered();
    if (data.size() > kWindow) std::abort();
    last_stream = id;
  }
  void OnStreamEnd(uint32_t, bool, absl::string_view) override { Delivered(); }
  void OnStreamWritable(uint32_t id) override { last_stream = id; }
  void Delivered() {
    if (!mux->status().ok()) std::abort();
  }
  Mux* mux = nullptr;
  std::vector<uint64_t> calls;
  uint32_t last_stream = 1;
};

void Act(Mux* mux, Owner* owner, uint8_t action, absl::string_view bytes) {
  const uint32_t id = bytes.empty() ? owner->last_stream : static_cast<uint8_t>(bytes[0]);
  v1::Call call;
  v1::Reply reply;
  switch (action % 8) {
    case 0:
      call.mutable_invoke()->set_request_stream(mux->NextStreamId());
      call.mutable_invoke()->set_response_stream(mux->NextStreamId());
      mux->SendCall(call).IgnoreError();
      break;
    case 1:
      mux->SendData(id, bytes).IgnoreError();
      break;
    case 2:
      mux->EndStream(id).IgnoreError();
      break;
    case 3:
      mux->AbortStream(id, "fuzz");
      break;
    case 4:
      mux->Consume(id, bytes.size());
      break;
    case 5:
      mux->ConsumeOutput(bytes.size() * 8);
      break;
    case 6:
      if (owner->calls.empty()) break;
      reply.set_id(owner->calls.back());
      reply.mutable_error()->set_code(2);
      owner->calls.pop_back();
      mux->SendReply(reply).IgnoreError();
      break;
    default:
      call.mutable_shutdown();
      mux->SendCall(call).IgnoreError();
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  Owner owner;
  Mux mux({.side = data[0] % 2 == 0 ? MuxSide::kHost : MuxSide::kAgent,
           .build = "",
           .boot_id = "",
           .initial_credit_bytes = kWindow},
          &owner);
  owner.mux = &mux;
  v1::Frame hello;
  hello.mutable_hello()->set_min_version(1);
  hello.mutable_hello()->set_max_version(1);
  hello.mutable_hello()->set_initial_credit_bytes(kWindow);
  std::string greeting;
  if (!hearth::wire::AppendFrame(hello.SerializeAsString(), 1024, &greeting).ok()) std::abort();
  // Most inputs start past the handshake, some have to find it.
  if (data[1] != 0 && !mux.Receive(greeting).ok()) std::abort();

  absl::string_view input(reinterpret_cast<const char*>(data) + 2, size - 2);
  while (input.size() >= 2) {
    const auto kind = static_cast<uint8_t>(input[0]);
    const size_t length = std::min<size_t>(static_cast<uint8_t>(input[1]), input.size() - 2);
    const absl::string_view bytes = input.substr(2, length);
    input.remove_prefix(2 + length);
    if (kind < 64) {
      Act(&mux, &owner, kind, bytes);
    } else if (kind < 128) {
      mux.Receive(bytes).IgnoreError();
    } else {
      // The record as one frame, so that the fuzzer need not find lengths.
      std::string frame;
      if (!hearth::wire::AppendFrame(bytes, 1024, &frame).ok()) std::abort();
      mux.Receive(frame).IgnoreError();
    }
    if (mux.live_streams() > hearth::wire::kMaxStreams) std::abort();
    if (mux.calls_in_flight() > hearth::wire::kMaxCallsInFlight) std::abort();
    if (mux.output().size() > hearth::wire::kMuxOutputBytes + 256 * 1024) std::abort();
  }
  return 0;
}
