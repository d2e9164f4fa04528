// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime_phase.h"

namespace hearth::agent {

std::optional<RuntimePhase> NextPhase(RuntimePhase phase, RuntimeEvent event) {
  using Phase = RuntimePhase;
  using Event = RuntimeEvent;
  if (event == Event::kExit) {
    if (phase == Phase::kAbsent) return std::nullopt;
    return Phase::kAbsent;
  }
  switch (phase) {
    case Phase::kAbsent:
      if (event == Event::kStart) return Phase::kInitialising;
      break;
    case Phase::kInitialising:
      if (event == Event::kNext) return Phase::kIdle;
      if (event == Event::kRestoreNext) return Phase::kSuspended;
      if (event == Event::kInitError) return Phase::kFailed;
      break;
    case Phase::kPreparing:
      if (event == Event::kRestoreNext) return Phase::kSuspended;
      if (event == Event::kInitError) return Phase::kFailed;
      break;
    case Phase::kSuspended:
      if (event == Event::kRestoreNext) return Phase::kSuspended;
      if (event == Event::kRestore) return Phase::kRestoring;
      break;
    case Phase::kRestoring:
      if (event == Event::kNext) return Phase::kIdle;
      if (event == Event::kRestoreNext) return Phase::kRestoring;
      if (event == Event::kRestoreError) return Phase::kFailed;
      break;
    case Phase::kIdle:
      if (event == Event::kNext) return Phase::kIdle;
      if (event == Event::kPrepare) return Phase::kPreparing;
      if (event == Event::kInvoke) return Phase::kInvoking;
      break;
    case Phase::kInvoking:
      if (event == Event::kNext) return Phase::kInvoking;
      if (event == Event::kResponseBegin) return Phase::kResponding;
      if (event == Event::kError) return Phase::kResponded;
      break;
    case Phase::kResponding:
      if (event == Event::kResponseEnd) return Phase::kResponded;
      if (event == Event::kResponseRefused) return Phase::kRefused;
      break;
    case Phase::kRefused:
      if (event == Event::kNext) return Phase::kIdle;
      if (event == Event::kResponseBegin) return Phase::kResponding;
      if (event == Event::kError) return Phase::kResponded;
      break;
    case Phase::kResponded:
      if (event == Event::kNext) return Phase::kIdle;
      break;
    case Phase::kFailed:
      break;
  }
  return std::nullopt;
}

const char* RuntimePhaseName(RuntimePhase phase) {
  switch (phase) {
    case RuntimePhase::kAbsent:
      return "Absent";
    case RuntimePhase::kInitialising:
      return "Initialising";
    case RuntimePhase::kIdle:
      return "Idle";
    case RuntimePhase::kPreparing:
      return "Preparing";
    case RuntimePhase::kSuspended:
      return "Suspended";
    case RuntimePhase::kRestoring:
      return "Restoring";
    case RuntimePhase::kInvoking:
      return "Invoking";
    case RuntimePhase::kResponding:
      return "Responding";
    case RuntimePhase::kRefused:
      return "Refused";
    case RuntimePhase::kResponded:
      return "Responded";
    case RuntimePhase::kFailed:
      return "Failed";
  }
  return "Unknown";
}

}  // namespace hearth::agent
