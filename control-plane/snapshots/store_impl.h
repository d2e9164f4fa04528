// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "control-plane/snapshots/chunks.h"
#include "control-plane/snapshots/disk.h"
#include "control-plane/snapshots/publisher.h"
#include "control-plane/snapshots/reader.h"
#include "control-plane/snapshots/residents.h"
#include "control-plane/snapshots/snapshot_store.h"
#include "control-plane/store/uuid.h"

namespace hearth::control {

// snapshot_store.cc opens, publishes and loads; collect.cc lists, deletes and sweeps.
class DiskSnapshotStore final : public SnapshotStore {
 public:
  // `lock` is held while the store lives; `key` is the store's.
  DiskSnapshotStore(SnapshotStoreConfig config, UniqueFd lock, const SnapshotKey& key);

  // Once, before anything else: folders, leftovers, the index.
  absl::Status Recover();

  absl::StatusOr<PublishedSnapshot> Publish(SnapshotDraft draft,
                                            Cancellation cancellation) override;
  absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> Load(const std::string& uid) override;
  bool IsResident(const std::string& uid) override { return residents_->IsResident(uid); }
  absl::StatusOr<hearth::snapshot::v1::Header> Describe(const std::string& uid) override;
  absl::Status SetWorkingSet(const std::string& uid, const WorkingSet& working_set) override;
  absl::Status AddRecording(const std::string& uid, const WorkingSet& recording) override;
  absl::StatusOr<SnapshotPin> Pin(const std::string& uid) override;
  absl::Status Delete(const std::string& uid) override;
  absl::StatusOr<std::vector<SnapshotInfo>> List() override;
  absl::StatusOr<CollectResult> Collect(
      const std::function<bool(const SnapshotInfo&)>& keep) override;
  uint64_t Evict(uint64_t bytes) override { return residents_->Evict(bytes); }
  uint64_t ResidentBytes() override { return residents_->ResidentBytes(); }

 private:
  // While it lives ClearIncoming() leaves that name alone.
  class AtWork {
   public:
    AtWork(DiskSnapshotStore* store, std::string name) : store_(store), name_(std::move(name)) {
      absl::MutexLock lock(&store_->mutex_);
      store_->at_work_.insert(name_);
    }
    ~AtWork() {
      absl::MutexLock lock(&store_->mutex_);
      store_->at_work_.erase(name_);
    }
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;

   private:
    DiskSnapshotStore* const store_;
    const std::string name_;
  };

  absl::StatusOr<Residents::Snapshot> LoadResident(const SnapshotReader::Authentic& snapshot,
                                                   const std::string& state);
  absl::Status StoreWorkingSet(const std::string& uid, const WorkingSet& runs, bool join);
  SnapshotInfo InfoOf(const std::string& uid);

  // Takes the folder out of the listing, durably; it is then incoming/deleted-{uid}.
  absl::Status Retire(const std::string& uid, bool though_held);
  // Sweeps the chunks of one tenant, or of all.
  absl::Status SweepChunks(const std::optional<std::string>& tenant, CollectResult* result);
  // Removes what is in incoming/ and nobody's.
  absl::Status ClearIncoming();

  const StorePaths paths_;
  const UniqueFd lock_;
  const Disk disk_;
  ChunkStore chunks_;
  const SnapshotReader reader_;
  UuidGenerator uuids_;
  const std::shared_ptr<Residents> residents_;
  absl::Mutex
      working_set_mutex_;  // Held while a working set's file is read to be replaced or kept.
  absl::Mutex mutex_;
  // Names in incoming/ that somebody works on.
  std::set<std::string> at_work_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
