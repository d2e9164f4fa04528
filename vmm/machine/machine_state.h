// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "absl/strings/string_view.h"

namespace hearth::vmm {

// A machine's life (docs/state-tables.md).
enum class MachineState {
  kCreated,   // Built, the vCPU has not entered the guest.
  kRunning,   // The vCPU is in the guest, or about to be.
  kPaused,    // No vCPU is in the guest.
  kStopping,  // Running until the guest resets or the deadline comes.
  kExited,    // Over; the process is about to end.
};

enum class MachineEvent {
  kStart,
  kPause,
  kResume,
  kStopOrderly,  // Wait for the guest.
  kSave,         // Write state and memory; the machine stays as it is.
  kRestore,      // Takes the place of the start: the machine is where the saved one was.
  kEnd,          // The guest ended, a deadline passed, or somebody forces it.
};

// The one transition function: the next state, or nothing if the move is illegal.
std::optional<MachineState> NextState(MachineState state, MachineEvent event);

absl::string_view StateName(MachineState state);

}  // namespace hearth::vmm
