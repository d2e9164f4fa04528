// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/machine_state.h"

namespace hearth::vmm {

std::optional<MachineState> NextState(MachineState state, MachineEvent event) {
  using S = MachineState;
  switch (event) {
    case MachineEvent::kStart:
      if (state == S::kCreated) return S::kRunning;
      break;
    case MachineEvent::kPause:
      if (state == S::kRunning) return S::kPaused;
      break;
    case MachineEvent::kResume:
      if (state == S::kPaused) return S::kRunning;
      break;
    case MachineEvent::kStopOrderly:
      // A paused guest is resumed for it: only a running one can end itself.
      if (state == S::kRunning || state == S::kPaused) return S::kStopping;
      break;
    case MachineEvent::kSave:
      if (state == S::kPaused) return S::kPaused;
      break;
    case MachineEvent::kRestore:
      if (state == S::kCreated) return S::kPaused;
      break;
    case MachineEvent::kEnd:
      if (state != S::kExited) return S::kExited;
      break;
  }
  return std::nullopt;
}

absl::string_view StateName(MachineState state) {
  switch (state) {
    case MachineState::kCreated:
      return "created";
    case MachineState::kRunning:
      return "running";
    case MachineState::kPaused:
      return "paused";
    case MachineState::kStopping:
      return "stopping";
    case MachineState::kExited:
      return "exited";
  }
  return "unknown";
}

}  // namespace hearth::vmm
