// SPDX-License-Identifier: Apache-2.0
#include "agent/park_state.h"

namespace hearth::agent {

std::optional<ParkState> NextParkState(ParkState state, ParkEvent event) {
  using State = ParkState;
  using Event = ParkEvent;
  switch (state) {
    case State::kServing:
      if (event == Event::kPrepare) return State::kPreparing;
      break;
    case State::kPreparing:
      if (event == Event::kHooksDone) return State::kFreezing;
      if (event == Event::kFailed) return State::kServing;
      break;
    case State::kFreezing:
      if (event == Event::kFrozen) return State::kFlushing;
      if (event == Event::kFailed) return State::kServing;
      break;
    case State::kFlushing:
      if (event == Event::kFlushed) return State::kParked;
      if (event == Event::kFailed) return State::kServing;
      break;
    case State::kParked:
      if (event == Event::kRestore) return State::kRestoring;
      break;
    case State::kRestoring:
      if (event == Event::kHooksDone || event == Event::kFailed) return State::kServing;
      break;
  }
  return std::nullopt;
}

const char* ParkStateName(ParkState state) {
  switch (state) {
    case ParkState::kServing:
      return "serving";
    case ParkState::kPreparing:
      return "preparing";
    case ParkState::kFreezing:
      return "freezing";
    case ParkState::kFlushing:
      return "flushing";
    case ParkState::kParked:
      return "parked";
    case ParkState::kRestoring:
      return "restoring";
  }
  return "unknown";
}

}  // namespace hearth::agent
