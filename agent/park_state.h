// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace hearth::agent {

// Where the instance stands on its way into a snapshot and out of it. The table is in
// docs/agent-states.md.
enum class ParkState {
  kServing,    // As every instance; not about to be snapshotted.
  kPreparing,  // The before-snapshot hooks run.
  kFreezing,   // User code is being stopped.
  kFlushing,   // It is stopped; log lines are still on their way to the host.
  kParked,     // PrepareSnapshot is answered. Only RestoreInstance and Shutdown are served.
  kRestoring,  // The instance is one of its own; the after-restore hooks run.
};

enum class ParkEvent { kPrepare, kHooksDone, kFrozen, kFlushed, kRestore, kFailed };

// The state after `event`; nothing when the event is illegal in `state`.
std::optional<ParkState> NextParkState(ParkState state, ParkEvent event);

const char* ParkStateName(ParkState state);

}  // namespace hearth::agent
