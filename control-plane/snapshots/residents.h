// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/snapshot_store.h"

namespace hearth::control {

// A snapshot's working set, shared by the store and whoever holds the snapshot. Thread-safe.
class SharedWorkingSet {
 public:
  void Set(RecordedWorkingSet working_set) ABSL_LOCKS_EXCLUDED(mutex_);
  std::shared_ptr<const WorkingSet> runs() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint32_t recordings() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const WorkingSet> runs_ ABSL_GUARDED_BY(mutex_) =
      std::make_shared<const WorkingSet>();
  uint32_t recordings_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Which snapshots there are, who uses them and whose memory is resident.
//
// The budget bounds what is kept for its own sake: a snapshot is kept when it fits beside those
// kept, after the least recently used of those nobody holds have gone. One that does not fit lives
// as long as it is held and is shared until then. Thread-safe; pins may outlive the store, so it is
// shared.
class Residents : public std::enable_shared_from_this<Residents> {
 public:
  using Snapshot = std::shared_ptr<const ResidentSnapshot>;
  enum class Use { kPin, kCall };

  explicit Residents(uint64_t budget_bytes) : budget_bytes_(budget_bytes) {}

  void Add(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  // Pinned from the first moment at which others see it.
  SnapshotPin AddPinned(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<std::string> Uids() ABSL_LOCKS_EXCLUDED(mutex_);
  // Keeps it from BeginRemove() while held. NOT_FOUND.
  absl::StatusOr<SnapshotPin> Begin(const std::string& uid, Use use) ABSL_LOCKS_EXCLUDED(mutex_);

  // The resident snapshot, or what `load` makes, called without locks by one of the callers; all of
  // them get its result. Within a Begin().
  absl::StatusOr<Snapshot> Acquire(const std::string& uid,
                                   const std::function<absl::StatusOr<Snapshot>()>& load)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Null when it is not known.
  std::shared_ptr<SharedWorkingSet> WorkingSetOf(const std::string& uid)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // From then on nobody gets it, unless EndRemove() says that it stays. NOT_FOUND;
  // FAILED_PRECONDITION while it is pinned or in a call or, unless `though_held`, held.
  absl::Status BeginRemove(const std::string& uid, bool though_held) ABSL_LOCKS_EXCLUDED(mutex_);
  void EndRemove(const std::string& uid, bool removed) ABSL_LOCKS_EXCLUDED(mutex_);

  struct Usage {
    bool resident = false;
    bool in_use = false;
    bool pinned = false;
    uint64_t resident_bytes = 0;
  };
  Usage UsageOf(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsResident(const std::string& uid) ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t Evict(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t ResidentBytes() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Flight {
    bool done = false;
    absl::StatusOr<Snapshot> result = Snapshot();
  };
  struct Entry {
    int pins = 0;
    int calls = 0;
    bool removing = false;
    std::shared_ptr<Flight> flight;  // While it is being loaded.
    Snapshot kept;
    std::weak_ptr<const ResidentSnapshot> live;
    uint64_t used = 0;  // By the clock of uses_.
    std::shared_ptr<SharedWorkingSet> working_set = std::make_shared<SharedWorkingSet>();

    Snapshot alive() const { return kept ? kept : live.lock(); }
    // No reference comes but from here, so "nobody" stays true while the lock is held.
    bool held() const { return kept ? kept.use_count() > 1 : !live.expired(); }
  };
  SnapshotPin PinOf(const std::string& uid, Use use);
  void End(const std::string& uid, Use use) ABSL_LOCKS_EXCLUDED(mutex_);
  // What must go is moved to `gone`, to be freed without the lock.
  void Keep(Entry* entry, const Snapshot& snapshot, std::vector<Snapshot>* gone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry* LeastRecentlyUsed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t budget_bytes_;
  absl::Mutex mutex_;
  uint64_t uses_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  // Of deleted snapshots that are still held.
  std::vector<std::weak_ptr<const ResidentSnapshot>> orphans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
