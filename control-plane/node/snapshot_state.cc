// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/snapshot_state.h"

#include "absl/strings/str_cat.h"

namespace hearth::control {

absl::string_view Name(SnapshotState state) {
  switch (state) {
    case SnapshotState::kNone:
      return "without a snapshot";
    case SnapshotState::kBuilding:
      return "BUILDING";
    case SnapshotState::kReady:
      return "READY";
    case SnapshotState::kOutdated:
      return "OUTDATED";
    case SnapshotState::kRefreshing:
      return "refreshing";
    case SnapshotState::kDamaged:
      return "DAMAGED";
  }
  return "unknown";
}

absl::string_view Name(SnapshotEvent event) {
  switch (event) {
    case SnapshotEvent::kBuildBegun:
      return "build begun";
    case SnapshotEvent::kBuilt:
      return "built";
    case SnapshotEvent::kBuildFailed:
      return "build failed";
    case SnapshotEvent::kImagesChanged:
      return "images changed";
    case SnapshotEvent::kRefused:
      return "refused";
    case SnapshotEvent::kDeleted:
      return "deleted";
  }
  return "unknown";
}

bool Serves(SnapshotState state) {
  return state == SnapshotState::kReady || state == SnapshotState::kOutdated ||
         state == SnapshotState::kRefreshing;
}

bool IsBuilding(SnapshotState state) {
  return state == SnapshotState::kBuilding || state == SnapshotState::kRefreshing;
}

absl::StatusOr<SnapshotState> Transition(SnapshotState state, SnapshotEvent event) {
  using S = SnapshotState;
  switch (event) {
    case SnapshotEvent::kBuildBegun:
      if (state == S::kNone || state == S::kDamaged) return S::kBuilding;
      if (state == S::kReady || state == S::kOutdated) return S::kRefreshing;
      break;
    case SnapshotEvent::kBuilt:
      if (IsBuilding(state)) return S::kReady;
      break;
    case SnapshotEvent::kBuildFailed:
      if (state == S::kBuilding) return S::kNone;
      // It looks anew whether the old one is outdated.
      if (state == S::kRefreshing) return S::kReady;
      break;
    case SnapshotEvent::kImagesChanged:
      if (state == S::kReady || state == S::kOutdated) return S::kOutdated;
      if (state == S::kRefreshing) return S::kRefreshing;
      break;
    case SnapshotEvent::kRefused:
      if (state == S::kReady || state == S::kOutdated) return S::kDamaged;
      if (state == S::kRefreshing) return S::kBuilding;
      break;
    case SnapshotEvent::kDeleted:
      if (state == S::kBuilding || state == S::kRefreshing) return S::kBuilding;
      return S::kNone;
  }
  return absl::InternalError(
      absl::StrCat("a version that is ", Name(state), " cannot meet '", Name(event), "'"));
}

}  // namespace hearth::control
