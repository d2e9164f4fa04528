// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/residents.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

absl::Status NoSnapshot(const std::string& uid) {
  return absl::NotFoundError(absl::StrCat("there is no snapshot ", uid));
}

}  // namespace

void SharedWorkingSet::Set(RecordedWorkingSet working_set) {
  auto runs = std::make_shared<const WorkingSet>(std::move(working_set.runs));
  absl::MutexLock lock(&mutex_);
  runs_.swap(runs);
  recordings_ = working_set.recordings;
}

std::shared_ptr<const WorkingSet> SharedWorkingSet::runs() const {
  absl::MutexLock lock(&mutex_);
  return runs_;
}

uint32_t SharedWorkingSet::recordings() const {
  absl::MutexLock lock(&mutex_);
  return recordings_;
}

void Residents::Add(const std::string& uid) {
  absl::MutexLock lock(&mutex_);
  entries_.try_emplace(uid);
}

SnapshotPin Residents::AddPinned(const std::string& uid) {
  {
    absl::MutexLock lock(&mutex_);
    ++entries_[uid].pins;
  }
  return PinOf(uid, Use::kPin);
}

SnapshotPin Residents::PinOf(const std::string& uid, Use use) {
  return SnapshotPin([self = shared_from_this(), uid, use] { self->End(uid, use); });
}

std::vector<std::string> Residents::Uids() {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> uids;
  for (const auto& [uid, entry] : entries_) {
    if (!entry.removing) uids.push_back(uid);
  }
  return uids;
}

absl::StatusOr<SnapshotPin> Residents::Begin(const std::string& uid, Use use) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(uid);
    if (found == entries_.end() || found->second.removing) return NoSnapshot(uid);
    ++(use == Use::kPin ? found->second.pins : found->second.calls);
  }
  return PinOf(uid, use);
}

void Residents::End(const std::string& uid, Use use) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.at(uid);  // Not removed while it is used.
  --(use == Use::kPin ? entry.pins : entry.calls);
}

absl::StatusOr<Residents::Snapshot> Residents::Acquire(
    const std::string& uid, const std::function<absl::StatusOr<Snapshot>()>& load) {
  std::vector<Snapshot> gone;  // Destroyed after the lock's end.
  std::shared_ptr<Flight> flight;
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(uid);
    entry.used = ++uses_;
    if (Snapshot snapshot = entry.alive()) {
      if (!entry.kept) Keep(&entry, snapshot, &gone);
      return snapshot;
    }
    if (entry.flight) {
      flight = entry.flight;
      mutex_.Await(absl::Condition(&flight->done));
      return flight->result;
    }
    flight = entry.flight = std::make_shared<Flight>();
  }
  absl::StatusOr<Snapshot> loaded = load();
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_.at(uid);
    entry.flight.reset();
    if (loaded.ok()) {
      entry.live = *loaded;
      Keep(&entry, *loaded, &gone);
    }
    flight->result = loaded;
    flight->done = true;
  }
  return loaded;
}

std::shared_ptr<SharedWorkingSet> Residents::WorkingSetOf(const std::string& uid) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(uid);
  return found == entries_.end() ? nullptr : found->second.working_set;
}

Residents::Entry* Residents::LeastRecentlyUsed() {
  Entry* oldest = nullptr;
  for (auto& [uid, entry] : entries_) {
    if (entry.kept && !entry.held() && (!oldest || entry.used < oldest->used)) oldest = &entry;
  }
  return oldest;
}

void Residents::Keep(Entry* entry, const Snapshot& snapshot, std::vector<Snapshot>* gone) {
  uint64_t kept = 0;
  uint64_t held = 0;
  for (const auto& [uid, other] : entries_) {
    if (!other.kept) continue;
    const uint64_t bytes = other.kept->resident_bytes();
    kept += bytes;
    if (other.held()) held += bytes;
  }
  const uint64_t bytes = snapshot->resident_bytes();
  // When it cannot fit, others need not go for it.
  if (held + bytes > budget_bytes_) return;
  while (kept + bytes > budget_bytes_) {
    Entry* const oldest = LeastRecentlyUsed();
    if (!oldest) return;
    kept -= std::min(kept, oldest->kept->resident_bytes());
    gone->push_back(std::move(oldest->kept));
    oldest->kept.reset();
  }
  entry->kept = snapshot;
}

absl::Status Residents::BeginRemove(const std::string& uid, bool though_held) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(uid);
  if (found == entries_.end() || found->second.removing) return NoSnapshot(uid);
  Entry& entry = found->second;
  if (entry.pins > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("snapshot ", uid, " is pinned: it is in use"));
  }
  if (entry.calls > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("snapshot ", uid, " is being loaded; try again"));
  }
  if (!though_held && entry.held()) {
    return absl::FailedPreconditionError(
        absl::StrCat("snapshot ", uid, " is in use by running instances"));
  }
  entry.removing = true;
  return absl::OkStatus();
}

void Residents::EndRemove(const std::string& uid, bool removed) {
  Snapshot gone;
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(uid);
  if (!removed) {
    found->second.removing = false;
    return;
  }
  gone = std::move(found->second.kept);
  if (!found->second.live.expired()) orphans_.push_back(found->second.live);
  entries_.erase(found);
}

bool Residents::IsResident(const std::string& uid) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(uid);
  // No reference is taken: this must not be the last one, to be freed under the lock.
  return found != entries_.end() && (found->second.kept || !found->second.live.expired());
}

Residents::Usage Residents::UsageOf(const std::string& uid) {
  Snapshot snapshot;
  absl::MutexLock lock(&mutex_);
  Usage usage;
  const auto found = entries_.find(uid);
  if (found == entries_.end()) return usage;
  const Entry& entry = found->second;
  usage.pinned = entry.pins > 0;
  usage.in_use = entry.pins > 0 || entry.calls > 0 || entry.held();
  snapshot = entry.alive();
  if (snapshot) {
    usage.resident = true;
    usage.resident_bytes = snapshot->resident_bytes();
  }
  return usage;
}

uint64_t Residents::Evict(uint64_t bytes) {
  std::vector<Snapshot> gone;
  absl::MutexLock lock(&mutex_);
  uint64_t freed = 0;
  while (freed < bytes) {
    Entry* const oldest = LeastRecentlyUsed();
    if (!oldest) break;
    freed += oldest->kept->resident_bytes();
    gone.push_back(std::move(oldest->kept));
    oldest->kept.reset();
  }
  return freed;
}

uint64_t Residents::ResidentBytes() {
  std::vector<Snapshot> alive;  // Outlives the lock: the last reference may turn out to be ours.
  absl::MutexLock lock(&mutex_);
  uint64_t bytes = 0;
  for (const auto& [uid, entry] : entries_) alive.push_back(entry.alive());
  std::erase_if(orphans_, [](const auto& orphan) { return orphan.expired(); });
  for (const auto& orphan : orphans_) alive.push_back(orphan.lock());
  for (const Snapshot& snapshot : alive) {
    if (snapshot) bytes += snapshot->resident_bytes();
  }
  return bytes;
}

}  // namespace hearth::control
