// SPDX-License-Identifier: Apache-2.0
// The life of a version as far as snapshots go. docs/version-life.md shows the table.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::control {

enum class SnapshotState {
  kNone,        // Instances boot.
  kBuilding,    // Instances boot; a snapshot is being made.
  kReady,       // Instances are restored.
  kOutdated,    // Instances are restored, from a snapshot that is to be replaced.
  kRefreshing,  // Instances are restored from the old one while a new one is made.
  kDamaged,     // The snapshot was refused: instances boot.
};

enum class SnapshotEvent {
  kBuildBegun,
  kBuilt,          // The new one is stored and has been restored once.
  kBuildFailed,    // Or was cancelled.
  kImagesChanged,  // It was made from other images than new machines are.
  kRefused,        // It could not be authenticated, loaded or restored.
  kDeleted,
};

absl::string_view Name(SnapshotState state);
absl::string_view Name(SnapshotEvent event);

// Whether instances are restored from a snapshot.
bool Serves(SnapshotState state);
bool IsBuilding(SnapshotState state);

// The state after `event`. INTERNAL when it must not happen in `state`.
absl::StatusOr<SnapshotState> Transition(SnapshotState state, SnapshotEvent event);

}  // namespace hearth::control
