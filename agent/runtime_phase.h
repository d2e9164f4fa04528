// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace hearth::agent {

// Where a runtime on the Runtime API stands. The table is in docs/agent-states.md.
enum class RuntimePhase {
  kAbsent,        // Not started, or its process has ended.
  kInitialising,  // Started; has not asked for an invocation yet.
  kIdle,          // Asked for an invocation; there is none.
  kPreparing,     // Was told of the snapshot to come; its before-snapshot hooks run.
  kSuspended,     // Asked for restore/next: is ready for a snapshot, and for an invocation.
  kRestoring,     // Was told to go on; its after-restore hooks run.
  kInvoking,      // Has one and has not answered.
  kResponding,    // Is sending its answer.
  kRefused,       // Its answer was refused: cut short, or too long.
  kResponded,     // Has answered and has not asked for the next.
  kFailed,        // Reported that its initialisation or a hook failed.
};

enum class RuntimeEvent {
  kStart,
  kNext,             // GET /runtime/invocation/next
  kInitError,        // POST /runtime/init/error
  kRestoreNext,      // GET /runtime/restore/next
  kRestoreError,     // POST /runtime/restore/error
  kPrepare,          // The host's PrepareSnapshot, for a runtime that has hooks.
  kRestore,          // The host's RestoreInstance, or an invocation without a snapshot.
  kInvoke,           // The host's invocation.
  kResponseBegin,    // POST .../response, its headers.
  kResponseRefused,  // It ended early, or is too long; nothing of it has left for the host.
  kResponseEnd,
  kError,  // POST .../error
  kExit,   // The process has ended.
};

// The phase after `event`; nothing when the event is illegal in `phase`.
std::optional<RuntimePhase> NextPhase(RuntimePhase phase, RuntimeEvent event);

const char* RuntimePhaseName(RuntimePhase phase);

}  // namespace hearth::agent
