// SPDX-License-Identifier: Apache-2.0
// Which snapshot serves which version. It knows the store, and nothing of machines.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/node/node.h"
#include "control-plane/node/snapshot_state.h"
#include "control-plane/snapshots/snapshot_store.h"

namespace hearth::control {

// tenants/{t}/functions/{f}/versions/{n}/snapshots/{uid}
std::string SnapshotName(const hearth::snapshot::v1::Header& header);

// Thread-safe.
class VersionSnapshots {
 public:
  // What is in the store. Of two snapshots of one version the newer serves; the older, which a
  // crash left, is deleted. `store` outlives this.
  static absl::StatusOr<std::unique_ptr<VersionSnapshots>> Open(SnapshotStore* store,
                                                                hearth::snapshot::v1::Host host);

  // What an instance of the version is to be restored from, loaded; null: it boots. A snapshot that
  // the store refuses is DAMAGED from then on. `was_resident`: whether its memory was in the
  // host's. Counts as a use at `now`, so that Collect() spares it.
  std::shared_ptr<const ResidentSnapshot> Find(const VersionDescription& version, absl::Time now,
                                               bool* was_resident) ABSL_LOCKS_EXCLUDED(mutex_);
  // The same of the one that is being built, which serves nobody yet.
  absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> Load(const std::string& uid);

  // Whether the version lacks a snapshot of its present images, and the last attempt to make one
  // was not just now. Not when `images` are no longer the present ones: who holds them cannot make
  // it.
  bool WantsBuild(const VersionDescription& version, const hearth::snapshot::v1::Images& images,
                  absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // FAILED_PRECONDITION while one is being built. EndBuild() is to follow.
  absl::Status BeginBuild(const VersionDescription& version,
                          const hearth::snapshot::v1::Images& images) ABSL_LOCKS_EXCLUDED(mutex_);
  // The new one serves from now on and the old one is deleted; or, when it failed, the old one goes
  // on. False: the version was forgotten meanwhile, and with it the new one.
  bool EndBuild(const VersionDescription& version,
                const absl::StatusOr<hearth::snapshot::v1::Header>& built, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // A restore of it failed. When `verdict`, or for the third time in a row, it is DAMAGED; when it
  // was late (DEADLINE_EXCEEDED), for the thirtieth. A shortage (RESOURCE_EXHAUSTED) says nothing
  // about it.
  void RestoreFailed(const hearth::snapshot::v1::Header& header, const absl::Status& why,
                     bool verdict) ABSL_LOCKS_EXCLUDED(mutex_);
  void Restored(const hearth::snapshot::v1::Header& header, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether one more recording is wanted now. EndRecording() is to follow.
  bool BeginRecording(const ResidentSnapshot& snapshot, uint32_t most) ABSL_LOCKS_EXCLUDED(mutex_);
  void EndRecording(const hearth::snapshot::v1::Header& header) ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes `images` the version's present ones: what was made from others is OUTDATED. WantsBuild()
  // and BeginBuild() do so only for a version whose images nobody has told, for a call that has
  // taken long may hold what they were before.
  void SetImages(const std::string& version, const hearth::snapshot::v1::Images& images)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Those of a snapshot that is READY: what else runs is to give way. Null while it is not.
  std::optional<hearth::snapshot::v1::Images> ReadyImages(const std::string& version) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<hearth::v1::Snapshot> List() ABSL_LOCKS_EXCLUDED(mutex_);
  std::string NameOf(const std::string& version) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether there is one that serves or was refused.
  bool HasOne(const std::string& version) const ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Status Delete(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(const std::string& prefix) ABSL_LOCKS_EXCLUDED(mutex_);
  void Retain(const std::set<std::string>& version_uids) ABSL_LOCKS_EXCLUDED(mutex_);
  // Deletes those that were not used since `unused_since`, are held by nobody, and what could not
  // be deleted before.
  void Collect(absl::Time unused_since) ABSL_LOCKS_EXCLUDED(mutex_);
  // Of all that are kept.
  std::set<std::string> ImageDigests() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    SnapshotState state = SnapshotState::kNone;
    hearth::snapshot::v1::Header header;  // Of the one that serves, or was refused.
    absl::Status refused;
    int failures_in_a_row = 0;  // Those that were not just late.
    int late_in_a_row = 0;
    int64_t restores = 0;
    absl::Time used = absl::InfinitePast();
    absl::Time since = absl::InfinitePast();  // When this process first knew it.
    bool recording = false;
    int failed_builds = 0;
    absl::Time retry_at = absl::InfinitePast();
    bool forgotten = false;  // While it is being built.
    std::optional<hearth::snapshot::v1::Images> wanted;
  };

  VersionSnapshots(SnapshotStore* store, hearth::snapshot::v1::Host host)
      : store_(store), host_(std::move(host)) {}
  void Adopt(const SnapshotInfo& info) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Move(Entry& entry, SnapshotEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The entry whose serving snapshot this is, or null.
  Entry* EntryOf(const hearth::snapshot::v1::Header& header) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Refuse(Entry& entry, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Discard(const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry& Know(const std::string& version, const hearth::snapshot::v1::Images& images)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JudgeImages(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropEntry(std::map<std::string, Entry>::iterator entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Sweep() ABSL_LOCKS_EXCLUDED(mutex_);

  SnapshotStore* const store_;
  const hearth::snapshot::v1::Host host_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);  // By the version's name.
  std::set<std::string> discarded_ ABSL_GUARDED_BY(mutex_);       // uids still to be deleted.
};

}  // namespace hearth::control
