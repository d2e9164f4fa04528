// SPDX-License-Identifier: Apache-2.0
// Which streams a hearth.agent.v1 call names, and which reply it gets: the parts of the multiplexer
// that depend on the messages.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "hearth/agent/v1/agent.pb.h"

namespace hearth::wire {

enum class MuxSide { kHost, kAgent };

struct NamedStream {
  uint32_t id = 0;
  bool to_agent = false;  // Which way its data goes.
};

inline constexpr size_t kMaxStreamsPerCall = 3;

struct NamedStreams {
  std::array<NamedStream, kMaxStreamsPerCall> streams;
  size_t count = 0;
};

// The streams of `call` in the order of its fields; ids of 0 (none) are left out. StartRuntime's
// process has none: what it prints are log lines.
NamedStreams StreamsOf(const agent::v1::Call& call);

// Whether `reply` is one that a call of this kind can get: an error, or its own kind of result.
bool ReplyFits(agent::v1::Call::CommandCase command, const agent::v1::Reply& reply);

}  // namespace hearth::wire
