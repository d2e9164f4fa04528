// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime_phase.h"

#include <catch2/catch.hpp>
#include <map>
#include <utility>

#include "agent/invocation_state.h"
#include "agent/park_state.h"
#include "agent/process.h"

namespace hearth::agent {
namespace {

using Phase = RuntimePhase;
using Event = RuntimeEvent;

TEST_CASE("runtime phase: exactly the moves of docs/agent-states.md are legal") {
  const std::map<std::pair<Phase, Event>, Phase> legal = {
      {{Phase::kAbsent, Event::kStart}, Phase::kInitialising},
      {{Phase::kInitialising, Event::kNext}, Phase::kIdle},
      {{Phase::kInitialising, Event::kInitError}, Phase::kFailed},
      {{Phase::kInitialising, Event::kExit}, Phase::kAbsent},
      {{Phase::kInitialising, Event::kRestoreNext}, Phase::kSuspended},
      {{Phase::kIdle, Event::kPrepare}, Phase::kPreparing},
      {{Phase::kPreparing, Event::kRestoreNext}, Phase::kSuspended},
      {{Phase::kPreparing, Event::kInitError}, Phase::kFailed},
      {{Phase::kPreparing, Event::kExit}, Phase::kAbsent},
      {{Phase::kSuspended, Event::kRestoreNext}, Phase::kSuspended},
      {{Phase::kSuspended, Event::kRestore}, Phase::kRestoring},
      {{Phase::kSuspended, Event::kExit}, Phase::kAbsent},
      {{Phase::kRestoring, Event::kNext}, Phase::kIdle},
      {{Phase::kRestoring, Event::kRestoreNext}, Phase::kRestoring},
      {{Phase::kRestoring, Event::kRestoreError}, Phase::kFailed},
      {{Phase::kRestoring, Event::kExit}, Phase::kAbsent},
      {{Phase::kIdle, Event::kNext}, Phase::kIdle},
      {{Phase::kIdle, Event::kInvoke}, Phase::kInvoking},
      {{Phase::kIdle, Event::kExit}, Phase::kAbsent},
      {{Phase::kInvoking, Event::kNext}, Phase::kInvoking},
      {{Phase::kInvoking, Event::kResponseBegin}, Phase::kResponding},
      {{Phase::kInvoking, Event::kError}, Phase::kResponded},
      {{Phase::kInvoking, Event::kExit}, Phase::kAbsent},
      {{Phase::kResponding, Event::kResponseEnd}, Phase::kResponded},
      {{Phase::kResponding, Event::kResponseRefused}, Phase::kRefused},
      {{Phase::kResponding, Event::kExit}, Phase::kAbsent},
      {{Phase::kRefused, Event::kNext}, Phase::kIdle},
      {{Phase::kRefused, Event::kResponseBegin}, Phase::kResponding},
      {{Phase::kRefused, Event::kError}, Phase::kResponded},
      {{Phase::kRefused, Event::kExit}, Phase::kAbsent},
      {{Phase::kResponded, Event::kNext}, Phase::kIdle},
      {{Phase::kResponded, Event::kExit}, Phase::kAbsent},
      {{Phase::kFailed, Event::kExit}, Phase::kAbsent},
  };
  for (int p = 0; p <= static_cast<int>(Phase::kFailed); ++p) {
    for (int e = 0; e <= static_cast<int>(Event::kExit); ++e) {
      const auto phase = static_cast<Phase>(p);
      const auto event = static_cast<Event>(e);
      const auto it = legal.find({phase, event});
      const std::optional<Phase> expected =
          it == legal.end() ? std::nullopt : std::optional<Phase>(it->second);
      INFO(RuntimePhaseName(phase) << ", event " << e);
      REQUIRE(NextPhase(phase, event) == expected);
    }
  }
}

TEST_CASE("invocation state: exactly the moves of docs/agent-states.md are legal") {
  using State = InvocationState;
  using Move = InvocationEvent;
  const std::map<std::pair<State, Move>, State> legal = {
      {{State::kCollecting, Move::kOffer}, State::kOffered},
      {{State::kCollecting, Move::kAnswer}, State::kAnswered},
      {{State::kOffered, Move::kCancel}, State::kCancelling},
      {{State::kOffered, Move::kAnswer}, State::kAnswered},
      {{State::kCancelling, Move::kAnswer}, State::kAnswered},
      {{State::kAnswered, Move::kAnswer}, State::kAnswered},
      {{State::kAnswered, Move::kEnd}, State::kOver},
  };
  for (int s = 0; s <= static_cast<int>(State::kOver); ++s) {
    for (int e = 0; e <= static_cast<int>(Move::kEnd); ++e) {
      const auto it = legal.find({static_cast<State>(s), static_cast<Move>(e)});
      const std::optional<State> expected =
          it == legal.end() ? std::nullopt : std::optional<State>(it->second);
      INFO("state " << s << ", event " << e);
      REQUIRE(NextInvocationState(static_cast<State>(s), static_cast<Move>(e)) == expected);
    }
  }
}

TEST_CASE("park state: exactly the moves of docs/agent-states.md are legal") {
  using State = ParkState;
  using Move = ParkEvent;
  const std::map<std::pair<State, Move>, State> legal = {
      {{State::kServing, Move::kPrepare}, State::kPreparing},
      {{State::kPreparing, Move::kHooksDone}, State::kFreezing},
      {{State::kPreparing, Move::kFailed}, State::kServing},
      {{State::kFreezing, Move::kFrozen}, State::kFlushing},
      {{State::kFreezing, Move::kFailed}, State::kServing},
      {{State::kFlushing, Move::kFlushed}, State::kParked},
      {{State::kFlushing, Move::kFailed}, State::kServing},
      {{State::kParked, Move::kRestore}, State::kRestoring},
      {{State::kRestoring, Move::kHooksDone}, State::kServing},
      {{State::kRestoring, Move::kFailed}, State::kServing},
  };
  for (int s = 0; s <= static_cast<int>(State::kRestoring); ++s) {
    for (int e = 0; e <= static_cast<int>(Move::kFailed); ++e) {
      const auto it = legal.find({static_cast<State>(s), static_cast<Move>(e)});
      const std::optional<State> expected =
          it == legal.end() ? std::nullopt : std::optional<State>(it->second);
      INFO(ParkStateName(static_cast<State>(s)) << ", event " << e);
      REQUIRE(NextParkState(static_cast<State>(s), static_cast<Move>(e)) == expected);
    }
  }
}

TEST_CASE("process state: exactly the moves of docs/agent-states.md are legal") {
  const std::map<std::pair<ProcessState, ProcessEvent>, ProcessState> legal = {
      {{ProcessState::kStarting, ProcessEvent::kExecuted}, ProcessState::kRunning},
      {{ProcessState::kStarting, ProcessEvent::kShimEnded}, ProcessState::kEmptying},
      {{ProcessState::kRunning, ProcessEvent::kShimEnded}, ProcessState::kEmptying},
      {{ProcessState::kEmptying, ProcessEvent::kGroupEmpty}, ProcessState::kEnded},
  };
  size_t allowed = 0;
  for (int s = 0; s <= static_cast<int>(ProcessState::kEnded); ++s) {
    for (int e = 0; e <= static_cast<int>(ProcessEvent::kGroupEmpty); ++e) {
      const auto next = NextState(static_cast<ProcessState>(s), static_cast<ProcessEvent>(e));
      if (!next.has_value()) continue;
      ++allowed;
      REQUIRE(legal.at({static_cast<ProcessState>(s), static_cast<ProcessEvent>(e)}) == *next);
    }
  }
  REQUIRE(allowed == legal.size());
}

}  // namespace
}  // namespace hearth::agent
