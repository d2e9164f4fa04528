// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/version_snapshots.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/snapshots/host.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

using hearth::snapshot::v1::Header;
using hearth::snapshot::v1::Images;

// Restores that fail for reasons of the moment must not cost a snapshot; a series of them is its
// own fault.
constexpr int kFailuresForVerdict = 3;
// On a host that has too much to do every restore may be late, and boots, which take more of it,
// are no way out.
constexpr int kLateForVerdict = 30;
constexpr int kLookups = 4;  // A version is not rebuilt more often than that in the meantime.
constexpr absl::Duration kFirstRetry = absl::Seconds(5);
constexpr absl::Duration kLongestRetry = absl::Minutes(30);

// What was found out about the snapshot's files; that they cannot be read is none.
bool IsVerdict(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsFailedPrecondition(status);
}

bool SameImages(const Images& a, const Images& b) {
  return a.kernel() == b.kernel() && a.agent() == b.agent() && a.runtime() == b.runtime() &&
         a.code() == b.code();
}

}  // namespace

std::string SnapshotName(const Header& header) {
  return absl::StrCat(header.version(), "/snapshots/", header.uid());
}

absl::StatusOr<std::unique_ptr<VersionSnapshots>> VersionSnapshots::Open(
    SnapshotStore* store, hearth::snapshot::v1::Host host) {
  std::unique_ptr<VersionSnapshots> snapshots(new VersionSnapshots(store, std::move(host)));
  ASSIGN_OR_RETURN(const std::vector<SnapshotInfo> kept, store->List());
  {
    absl::MutexLock lock(&snapshots->mutex_);
    for (const SnapshotInfo& info : kept) snapshots->Adopt(info);
  }
  snapshots->Sweep();
  return snapshots;
}

void VersionSnapshots::Adopt(const SnapshotInfo& info) {
  // Of a newer Hearth, under another key, or on a disk that fails: whatever came may go again, and
  // nothing shows whose it is, so nothing shows that it may be deleted.
  if (info.header.version().empty()) {
    spdlog::warn("snapshot {} is left alone, for it cannot be read: {}", info.uid,
                 std::string(info.problem.message()));
    return;
  }
  Entry& entry = entries_[info.header.version()];
  // By uid, so this one is newer.
  if (!entry.header.uid().empty()) Discard(entry.header.uid());
  const auto known_images = entry.wanted;
  entry = Entry();
  entry.wanted = known_images;
  entry.header = info.header;
  entry.header.set_uid(info.uid);
  entry.since = absl::Now();
  entry.state = SnapshotState::kReady;
  // What cannot be read for the moment is judged when it is to be used.
  absl::Status fits = IsVerdict(info.problem) ? info.problem : absl::OkStatus();
  // What it was made from is looked for when it is restored.
  if (fits.ok()) fits = CheckFits(info.header, host_, info.header.images());
  if (!fits.ok()) Refuse(entry, fits);
}

void VersionSnapshots::Move(Entry& entry, SnapshotEvent event) {
  // Every caller has looked at the state under the same lock.
  const absl::StatusOr<SnapshotState> next = Transition(entry.state, event);
  ABSL_ASSERT(next.ok());
  if (next.ok()) entry.state = *next;
}

VersionSnapshots::Entry* VersionSnapshots::EntryOf(const Header& header) {
  const auto found = entries_.find(header.version());
  const bool same = found != entries_.end() && found->second.header.uid() == header.uid();
  return same ? &found->second : nullptr;
}

void VersionSnapshots::Refuse(Entry& entry, const absl::Status& why) {
  if (!Serves(entry.state)) return;
  spdlog::warn("snapshot {} is DAMAGED: {}", SnapshotName(entry.header),
               std::string(why.message()));
  Move(entry, SnapshotEvent::kRefused);
  entry.refused = why;
}

void VersionSnapshots::Discard(const std::string& uid) {
  if (!uid.empty()) discarded_.insert(uid);
}

void VersionSnapshots::Sweep() {
  std::set<std::string> uids;
  {
    absl::MutexLock lock(&mutex_);
    uids = discarded_;
  }
  for (const std::string& uid : uids) {
    const absl::Status deleted = store_->Delete(uid);
    // In use for the moment: Collect() tries again.
    if (absl::IsFailedPrecondition(deleted)) continue;
    if (!deleted.ok() && !absl::IsNotFound(deleted)) {
      spdlog::warn("snapshot {} cannot be deleted yet: {}", uid, std::string(deleted.message()));
      continue;
    }
    absl::MutexLock lock(&mutex_);
    discarded_.erase(uid);
  }
}

std::shared_ptr<const ResidentSnapshot> VersionSnapshots::Find(const VersionDescription& version,
                                                               absl::Time now, bool* was_resident) {
  for (int tries = 0; tries < kLookups; ++tries) {
    Header header;
    {
      absl::MutexLock lock(&mutex_);
      const auto found = entries_.find(version.name);
      if (found == entries_.end() || !Serves(found->second.state)) return nullptr;
      header = found->second.header;
      if (header.version_uid() != version.uid || header.memory_mib() != version.memory_mib) {
        Refuse(found->second, absl::DataLossError("it is of another version of the same name"));
        return nullptr;
      }
      // Collect() asks the store what is in use, and cannot see in its answer what is since.
      found->second.used = now;
    }
    *was_resident = store_->IsResident(header.uid());
    auto loaded = store_->Load(header.uid());
    if (loaded.ok()) return *std::move(loaded);
    // Another one has taken its place since it was looked up: that one serves.
    if (absl::IsNotFound(loaded.status())) continue;
    spdlog::warn("snapshot {} cannot be loaded: {}", SnapshotName(header),
                 std::string(loaded.status().message()));
    RestoreFailed(header, loaded.status(), IsVerdict(loaded.status()));
    return nullptr;
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> VersionSnapshots::Load(
    const std::string& uid) {
  return store_->Load(uid);
}

void VersionSnapshots::JudgeImages(Entry& entry) {
  if (!entry.wanted.has_value() || !Serves(entry.state)) return;
  if (!SameImages(*entry.wanted, entry.header.images())) {
    Move(entry, SnapshotEvent::kImagesChanged);
  } else if (entry.state == SnapshotState::kOutdated) {
    entry.state = SnapshotState::kReady;  // The images went back to what they were.
  }
}

void VersionSnapshots::SetImages(const std::string& version, const Images& images) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_[version];
  entry.wanted = images;
  JudgeImages(entry);
}

std::optional<Images> VersionSnapshots::ReadyImages(const std::string& version) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(version);
  if (found == entries_.end() || found->second.state != SnapshotState::kReady) return std::nullopt;
  return found->second.header.images();
}

VersionSnapshots::Entry& VersionSnapshots::Know(const std::string& version, const Images& images) {
  Entry& entry = entries_[version];
  if (!entry.wanted.has_value()) entry.wanted = images;
  JudgeImages(entry);
  return entry;
}

bool VersionSnapshots::WantsBuild(const VersionDescription& version, const Images& images,
                                  absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const Entry& entry = Know(version.name, images);
  if (!SameImages(*entry.wanted, images)) return false;
  if (IsBuilding(entry.state) || entry.state == SnapshotState::kReady) return false;
  return now >= entry.retry_at;
}

absl::Status VersionSnapshots::BeginBuild(const VersionDescription& version, const Images& images) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = Know(version.name, images);
  if (IsBuilding(entry.state)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a snapshot of ", version.name, " is being made already"));
  }
  Move(entry, SnapshotEvent::kBuildBegun);
  entry.forgotten = false;
  return absl::OkStatus();
}

bool VersionSnapshots::EndBuild(const VersionDescription& version,
                                const absl::StatusOr<Header>& built, absl::Time now) {
  bool kept = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(version.name);
    if (found == entries_.end()) return false;
    Entry& entry = found->second;
    if (built.ok() && !entry.forgotten) {
      Discard(entry.header.uid());
      entry.header = *built;
      entry.refused = absl::OkStatus();
      entry.failures_in_a_row = 0;
      entry.late_in_a_row = 0;
      entry.restores = 0;
      entry.failed_builds = 0;
      entry.since = now;
      entry.used = absl::InfinitePast();
      Move(entry, SnapshotEvent::kBuilt);
      kept = true;
    } else {
      if (built.ok()) Discard(built->uid());
      Move(entry, SnapshotEvent::kBuildFailed);
      if (!absl::IsCancelled(built.status())) {
        entry.retry_at =
            now + std::min(kFirstRetry * (1 << std::min(entry.failed_builds, 16)), kLongestRetry);
        ++entry.failed_builds;
      }
      if (entry.state == SnapshotState::kNone && !entry.refused.ok()) {
        entry.state = SnapshotState::kDamaged;  // The one that was refused is still there.
      }
    }
    JudgeImages(entry);
    if (entry.forgotten) DropEntry(found);
  }
  Sweep();
  return kept;
}

void VersionSnapshots::RestoreFailed(const Header& header, const absl::Status& why, bool verdict) {
  absl::MutexLock lock(&mutex_);
  Entry* const entry = EntryOf(header);
  if (entry == nullptr || absl::IsResourceExhausted(why)) return;
  const bool late = absl::IsDeadlineExceeded(why);
  const int in_a_row = late ? ++entry->late_in_a_row : ++entry->failures_in_a_row;
  if (verdict || in_a_row >= (late ? kLateForVerdict : kFailuresForVerdict)) Refuse(*entry, why);
}

void VersionSnapshots::Restored(const Header& header, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Entry* const entry = EntryOf(header);
  if (entry == nullptr) return;
  entry->failures_in_a_row = 0;
  entry->late_in_a_row = 0;
  ++entry->restores;
  entry->used = now;
}

bool VersionSnapshots::BeginRecording(const ResidentSnapshot& snapshot, uint32_t most) {
  absl::MutexLock lock(&mutex_);
  Entry* const entry = EntryOf(snapshot.header());
  if (entry == nullptr || entry->recording || snapshot.recordings() >= most) return false;
  entry->recording = true;
  return true;
}

void VersionSnapshots::EndRecording(const Header& header) {
  absl::MutexLock lock(&mutex_);
  if (Entry* const entry = EntryOf(header)) entry->recording = false;
}

}  // namespace hearth::control
