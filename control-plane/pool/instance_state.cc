// SPDX-License-Identifier: Apache-2.0
#include "control-plane/pool/instance_state.h"

#include "absl/strings/str_cat.h"

namespace hearth::control {

absl::string_view Name(InstanceState state) {
  switch (state) {
    case InstanceState::kBooting:
      return "BOOTING";
    case InstanceState::kInitializing:
      return "INITIALIZING";
    case InstanceState::kIdle:
      return "IDLE";
    case InstanceState::kBusy:
      return "BUSY";
    case InstanceState::kPaused:
      return "PAUSED";
    case InstanceState::kStopping:
      return "STOPPING";
    case InstanceState::kGone:
      return "gone";
  }
  return "unknown";
}

absl::string_view Name(InstanceEvent event) {
  switch (event) {
    case InstanceEvent::kAgentReady:
      return "agent ready";
    case InstanceEvent::kInitialized:
      return "initialized";
    case InstanceEvent::kReserved:
      return "reserved";
    case InstanceEvent::kReleased:
      return "released";
    case InstanceEvent::kPaused:
      return "paused";
    case InstanceEvent::kStop:
      return "stop";
    case InstanceEvent::kGone:
      return "gone";
  }
  return "unknown";
}

absl::StatusOr<InstanceState> Transition(InstanceState state, InstanceEvent event) {
  using S = InstanceState;
  switch (event) {
    case InstanceEvent::kAgentReady:
      if (state == S::kBooting) return S::kInitializing;
      break;
    case InstanceEvent::kInitialized:
      if (state == S::kInitializing) return S::kIdle;
      break;
    case InstanceEvent::kReserved:
      if (state == S::kIdle || state == S::kPaused) return S::kBusy;
      break;
    case InstanceEvent::kReleased:
      if (state == S::kBusy) return S::kIdle;
      break;
    case InstanceEvent::kPaused:
      if (state == S::kIdle) return S::kPaused;
      break;
    case InstanceEvent::kStop:
      if (state != S::kStopping && state != S::kGone) return S::kStopping;
      break;
    case InstanceEvent::kGone:
      if (state == S::kStopping) return S::kGone;
      break;
  }
  return absl::InternalError(
      absl::StrCat("an instance that is ", Name(state), " cannot meet '", Name(event), "'"));
}

}  // namespace hearth::control
