// SPDX-License-Identifier: Apache-2.0
#include "agent/invocation_state.h"

namespace hearth::agent {

std::optional<InvocationState> NextInvocationState(InvocationState state, InvocationEvent event) {
  using State = InvocationState;
  using Event = InvocationEvent;
  switch (state) {
    case State::kCollecting:
      if (event == Event::kOffer) return State::kOffered;
      if (event == Event::kAnswer) return State::kAnswered;
      break;
    case State::kOffered:
      if (event == Event::kCancel) return State::kCancelling;
      if (event == Event::kAnswer) return State::kAnswered;
      break;
    case State::kCancelling:
      if (event == Event::kAnswer) return State::kAnswered;
      break;
    case State::kAnswered:
      // A response that failed on its way goes on to its end.
      if (event == Event::kAnswer) return State::kAnswered;
      if (event == Event::kEnd) return State::kOver;
      break;
    case State::kOver:
      break;
  }
  return std::nullopt;
}

}  // namespace hearth::agent
