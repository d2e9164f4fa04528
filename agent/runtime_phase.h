// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace hearth::agent {

// Where a runtime on the Runtime API stands. The table is in docs/agent-states.md.
enum class RuntimePhase {
  kAbsent,        // Not started, or its process has ended.
  kInitialising,  // Started; has not asked for an invocation yet.
  kIdle,          // Asked for an invocation; there is none.
  kInvoking,      // Has one and has not answered.
  kResponding,    // Is sending its answer.
  kResponded,     // Has answered and has not asked for the next.
  kFailed,        // Reported that its initialisation failed.
};

enum class RuntimeEvent {
  kStart,
  kNext,           // GET /runtime/invocation/next
  kInitError,      // POST /runtime/init/error
  kInvoke,         // The host's invocation.
  kResponseBegin,  // POST .../response, its headers.
  kResponseCut,    // It ended early and can be sent again.
  kResponseEnd,
  kError,  // POST .../error
  kExit,   // The process has ended.
};

// The phase after `event`; nothing when the event is illegal in `phase`.
std::optional<RuntimePhase> NextPhase(RuntimePhase phase, RuntimeEvent event);

const char* RuntimePhaseName(RuntimePhase phase);

}  // namespace hearth::agent
