// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace hearth::agent {

// Where an invocation on the Runtime API stands. The table is in docs/agent-states.md.
enum class InvocationState {
  kCollecting,  // Its payload is on its way; no user code has seen it.
  kOffered,     // The runtime has it, or gets it when it asks.
  kCancelling,  // So, and the runtime is being killed because the host wants no answer.
  kAnswered,    // What came of it is known; the runtime has not asked for the next.
  kOver,        // Its result is complete; the response may still be on its way.
};

enum class InvocationEvent {
  kOffer,
  kCancel,  // The host's CancelInvocation.
  kAnswer,  // The runtime's, or a failure in its place.
  kEnd,     // The runtime asked for the next, or has ended.
};

// The state after `event`; nothing when the event is illegal in `state`.
std::optional<InvocationState> NextInvocationState(InvocationState state, InvocationEvent event);

}  // namespace hearth::agent
