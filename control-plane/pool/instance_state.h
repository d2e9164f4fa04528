// SPDX-License-Identifier: Apache-2.0
// The life of an instance. docs/instance-states.md shows the table.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::control {

// As hearth.v1.Instance.State, and kGone for what is listed no more.
enum class InstanceState { kBooting, kInitializing, kIdle, kBusy, kPaused, kStopping, kGone };

enum class InstanceEvent {
  kAgentReady,   // The guest runs and its agent is configured.
  kInitialized,  // The function's runtime asked for its first invocation.
  kReserved,     // Given to an invocation.
  kReleased,     // The invocation is over and the instance may serve again.
  kPaused,       // Idle for long enough to stop its processors.
  kStop,         // It is to end, or has ended by itself.
  kGone,         // The machine's process is reaped and its memory free.
};

absl::string_view Name(InstanceState state);
absl::string_view Name(InstanceEvent event);

// The state after `event`. INTERNAL when it must not happen in `state`.
absl::StatusOr<InstanceState> Transition(InstanceState state, InstanceEvent event);

}  // namespace hearth::control
