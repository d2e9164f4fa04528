// SPDX-License-Identifier: Apache-2.0
// What there is, for the API, and what goes.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "control-plane/node/names.h"
#include "control-plane/node/version_snapshots.h"
#include "control-plane/pool/pool.h"

namespace hearth::control {
namespace {

using hearth::snapshot::v1::Header;

hearth::v1::Snapshot::State StateOf(SnapshotState state, bool outdated) {
  switch (state) {
    case SnapshotState::kReady:
      return hearth::v1::Snapshot::READY;
    case SnapshotState::kOutdated:
      return hearth::v1::Snapshot::OUTDATED;
    case SnapshotState::kRefreshing:
      return outdated ? hearth::v1::Snapshot::OUTDATED : hearth::v1::Snapshot::READY;
    case SnapshotState::kDamaged:
      return hearth::v1::Snapshot::DAMAGED;
    case SnapshotState::kBuilding:
      return hearth::v1::Snapshot::BUILDING;
    case SnapshotState::kNone:
      break;
  }
  return hearth::v1::Snapshot::STATE_UNSPECIFIED;
}

std::string Differences(const hearth::snapshot::v1::Images& made,
                        const hearth::snapshot::v1::Images& wanted) {
  std::string text;
  const auto compare = [&](const char* name, const std::string& had, const std::string& now) {
    if (had != now) absl::StrAppend(&text, text.empty() ? "" : ", ", name);
  };
  compare("kernel", made.kernel(), wanted.kernel());
  compare("agent", made.agent(), wanted.agent());
  compare("runtime", made.runtime(), wanted.runtime());
  compare("code", made.code(), wanted.code());
  return text.empty() ? "" : absl::StrCat("made from another ", text);
}

hearth::v1::Snapshot Describe(const Header& header) {
  hearth::v1::Snapshot snapshot;
  snapshot.set_name(SnapshotName(header));
  snapshot.set_version(header.version());
  *snapshot.mutable_create_time() = ToProto(absl::FromUnixNanos(header.create_unix_ns()));
  hearth::v1::ImageDigests& images = *snapshot.mutable_images();
  images.set_kernel(header.images().kernel());
  images.set_agent(header.images().agent());
  images.set_runtime(header.images().runtime());
  images.set_code(header.images().code());
  hearth::v1::SnapshotHost& host = *snapshot.mutable_host();
  host.set_vmm_version(header.host().vmm_version());
  host.set_kernel_release(header.host().kernel_release());
  host.set_cpu_vendor(header.host().cpu_vendor());
  host.set_cpu_model(header.host().cpu_model());
  host.set_microcode(header.host().microcode());
  snapshot.set_memory_mib(header.memory_mib());
  snapshot.set_data_bytes(static_cast<int64_t>(header.data_bytes()));
  snapshot.set_state_bytes(static_cast<int64_t>(header.state_bytes()));
  *snapshot.mutable_boot_duration() = ToProto(absl::Nanoseconds(header.boot_ns()));
  *snapshot.mutable_init_duration() = ToProto(absl::Nanoseconds(header.init_ns()));
  *snapshot.mutable_cpu_duration() = ToProto(absl::Nanoseconds(header.cpu_ns()));
  return snapshot;
}

}  // namespace

std::vector<hearth::v1::Snapshot> VersionSnapshots::List() {
  std::map<std::string, SnapshotInfo> stored;
  if (auto infos = store_->List(); infos.ok()) {
    for (SnapshotInfo& info : *infos) stored[info.uid] = std::move(info);
  }
  std::vector<hearth::v1::Snapshot> list;
  std::vector<size_t> resident;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [version, entry] : entries_) {
      if (IsBuilding(entry.state)) {
        hearth::v1::Snapshot& building = list.emplace_back();
        building.set_name(absl::StrCat(version, "/snapshots/-"));
        building.set_version(version);
        building.set_state(hearth::v1::Snapshot::BUILDING);
      }
      if (entry.state == SnapshotState::kNone || entry.header.uid().empty()) continue;
      // While another is being made, the one that was refused is still there.
      const SnapshotState state = entry.state == SnapshotState::kBuilding && !entry.refused.ok()
                                      ? SnapshotState::kDamaged
                                      : entry.state;
      if (state == SnapshotState::kBuilding) continue;
      const std::string differences =
          entry.wanted.has_value() ? Differences(entry.header.images(), *entry.wanted) : "";
      hearth::v1::Snapshot& snapshot = list.emplace_back(Describe(entry.header));
      snapshot.set_state(StateOf(state, !differences.empty()));
      snapshot.set_detail(state == SnapshotState::kDamaged ? std::string(entry.refused.message())
                                                           : differences);
      if (entry.used != absl::InfinitePast()) *snapshot.mutable_use_time() = ToProto(entry.used);
      snapshot.set_restores(entry.restores);
      const auto info = stored.find(entry.header.uid());
      if (info == stored.end()) continue;
      snapshot.set_resident(info->second.resident);
      if (info->second.resident && Serves(state)) resident.push_back(list.size() - 1);
    }
  }
  for (const size_t i : resident) {
    // Resident, so this is cheap.
    const auto loaded =
        store_->Load(std::string(list[i].name().substr(list[i].name().rfind('/') + 1)));
    if (!loaded.ok()) continue;
    int64_t pages = 0, written = 0;
    if (const auto working_set = (*loaded)->working_set()) {
      for (const PageRun& run : *working_set) {
        pages += run.page_count;
        if (run.written) written += run.page_count;
      }
    }
    list[i].set_working_set_pages(pages);
    list[i].set_working_set_written_pages(written);
    list[i].set_working_set_recordings(static_cast<int32_t>((*loaded)->recordings()));
  }
  return list;
}

std::string VersionSnapshots::NameOf(const std::string& version) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(version);
  return found != entries_.end() && Serves(found->second.state) ? SnapshotName(found->second.header)
                                                                : "";
}

bool VersionSnapshots::HasOne(const std::string& version) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(version);
  return found != entries_.end() && !found->second.header.uid().empty();
}

absl::Status VersionSnapshots::Delete(const std::string& name) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
      return !entry.second.header.uid().empty() && SnapshotName(entry.second.header) == name;
    });
    if (found == entries_.end()) return absl::NotFoundError(absl::StrCat("no snapshot ", name));
    Entry& entry = found->second;
    Discard(entry.header.uid());
    Move(entry, SnapshotEvent::kDeleted);
    entry.header.Clear();
    entry.refused = absl::OkStatus();
    entry.retry_at = absl::InfinitePast();
  }
  Sweep();
  return absl::OkStatus();
}

void VersionSnapshots::DropEntry(std::map<std::string, Entry>::iterator entry) {
  Discard(entry->second.header.uid());
  entry->second.header.Clear();
  if (IsBuilding(entry->second.state)) {
    // EndBuild() finds it so.
    entry->second.state = SnapshotState::kBuilding;
    entry->second.forgotten = true;
  } else {
    entries_.erase(entry);
  }
}

void VersionSnapshots::Forget(const std::string& prefix) {
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      if (IsBelow(entry->first, prefix)) {
        DropEntry(entry);
      }
    }
  }
  Sweep();
}

void VersionSnapshots::Retain(const std::set<std::string>& version_uids) {
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      if (version_uids.count(entry->second.header.version_uid()) == 0) DropEntry(entry);
    }
  }
  Sweep();
}

void VersionSnapshots::Collect(absl::Time unused_since) {
  if (unused_since != absl::InfinitePast()) {
    std::set<std::string> in_use;
    const auto infos = store_->List();
    if (!infos.ok()) return;
    for (const SnapshotInfo& info : *infos) {
      if (info.in_use) in_use.insert(info.uid);
    }
    absl::MutexLock lock(&mutex_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      const bool idle = !IsBuilding(entry->second.state) && !entry->second.header.uid().empty() &&
                        std::max(entry->second.used, entry->second.since) < unused_since &&
                        in_use.count(entry->second.header.uid()) == 0;
      if (idle) DropEntry(entry);
    }
  }
  Sweep();
}

std::set<std::string> VersionSnapshots::ImageDigests() const {
  absl::MutexLock lock(&mutex_);
  std::set<std::string> digests;
  for (const auto& [version, entry] : entries_) {
    if (entry.header.uid().empty()) continue;
    digests.insert(entry.header.images().agent());
    digests.insert(entry.header.images().runtime());
  }
  return digests;
}

}  // namespace hearth::control
