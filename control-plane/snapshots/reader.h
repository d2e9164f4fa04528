// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/keys.h"

namespace hearth::control {

// Reads the files of snapshots and authenticates them. Every error begins with the snapshot and the
// file it is about. Thread-safe.
class SnapshotReader {
 public:
  SnapshotReader(std::string folder, const SnapshotKey& store_key)
      : folder_(std::move(folder)), store_key_(store_key) {}

  struct Authentic {
    hearth::snapshot::v1::Header header;
    TenantKeys keys;
  };
  // NOT_FOUND when there is no such folder; else errors as SnapshotStore::Load()'s.
  absl::StatusOr<Authentic> Header(const std::string& uid) const;
  absl::StatusOr<std::string> State(const Authentic& snapshot) const;
  absl::StatusOr<hearth::snapshot::v1::Memory> Memory(const Authentic& snapshot) const;
  absl::StatusOr<RecordedWorkingSet> WorkingSet(const Authentic& snapshot) const;

  TenantKeys KeysOf(const std::string& tenant) const ABSL_LOCKS_EXCLUDED(mutex_);
  std::string PathOf(const std::string& uid, absl::string_view file) const;
  // Sizes of the files of its folder together.
  uint64_t FileBytes(const std::string& uid) const;

 private:
  absl::StatusOr<std::string> Read(const std::string& uid, absl::string_view file,
                                   size_t limit) const;

  const std::string folder_;
  const SnapshotKey store_key_;
  mutable absl::Mutex mutex_;
  // Deriving takes longer than all else that a Load() of resident memory does.
  mutable std::map<std::string, TenantKeys> keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
