// SPDX-License-Identifier: Apache-2.0
// What there is, and what of it goes.
#include <map>

#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/store_impl.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

constexpr char kDeleted[] = "deleted-";

void Mark(const pb::Memory& manifest, DigestSet* marked) {
  const absl::string_view digests = manifest.chunks();
  for (size_t at = 0; at < digests.size(); at += limits::kSnapshotDigestBytes) {
    marked->emplace(digests.substr(at, limits::kSnapshotDigestBytes));
  }
}

}  // namespace

absl::Status DiskSnapshotStore::Recover() {
  for (const std::string* folder : {&paths_.incoming, &paths_.chunks, &paths_.snapshots}) {
    RETURN_IF_ERROR(disk_.MakeFolder("make the store's folders", *folder));
  }
  RETURN_IF_ERROR(disk_.Sync("sync the store's folder", paths_.directory));
  ASSIGN_OR_RETURN(const std::vector<std::string> left, NamesIn(paths_.incoming));
  if (!left.empty()) {
    // Somebody was interrupted. Chunks first: what lies in incoming/ tells that they are to be
    // swept.
    CollectResult result;
    RETURN_IF_ERROR(SweepChunks(std::nullopt, &result));
    RETURN_IF_ERROR(ClearIncoming());
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(paths_.snapshots));
  for (const std::string& name : names) {
    if (IsUuid(name)) residents_->Add(name);
  }
  return absl::OkStatus();
}

absl::Status DiskSnapshotStore::ClearIncoming() {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(paths_.incoming));
  for (const std::string& name : names) {
    // Held during the removal, so that nobody begins to work on one that goes.
    absl::MutexLock lock(&mutex_);
    if (at_work_.count(name) > 0) continue;
    RETURN_IF_ERROR(
        disk_.RemoveTree("clear the incoming folder", absl::StrCat(paths_.incoming, "/", name)));
  }
  return absl::OkStatus();
}

SnapshotInfo DiskSnapshotStore::InfoOf(const std::string& uid) {
  SnapshotInfo info;
  info.uid = uid;
  absl::StatusOr<SnapshotReader::Authentic> snapshot = reader_.Header(uid);
  if (snapshot.ok()) {
    info.problem = reader_.State(*snapshot).status();
    info.header = std::move(snapshot->header);
  } else {
    info.problem = snapshot.status();
  }
  info.stored_bytes = reader_.FileBytes(uid) + info.header.chunk_bytes();
  const Residents::Usage usage = residents_->UsageOf(uid);
  info.resident = usage.resident;
  info.resident_bytes = usage.resident_bytes;
  info.in_use = usage.in_use;
  return info;
}

absl::StatusOr<std::vector<SnapshotInfo>> DiskSnapshotStore::List() {
  std::vector<SnapshotInfo> infos;
  for (const std::string& uid : residents_->Uids()) {
    SnapshotInfo info = InfoOf(uid);
    if (!absl::IsNotFound(info.problem)) infos.push_back(std::move(info));  // Deleted meanwhile.
  }
  return infos;
}

absl::Status DiskSnapshotStore::Retire(const std::string& uid, bool though_held) {
  RETURN_IF_ERROR(residents_->BeginRemove(uid, though_held));
  const std::string folder = absl::StrCat(paths_.snapshots, "/", uid);
  const std::string retired = absl::StrCat(paths_.incoming, "/", kDeleted, uid);
  absl::Status status = disk_.Rename("retire the snapshot", folder, retired);
  if (status.ok()) {
    status = disk_.Sync("sync the folder of snapshots", paths_.snapshots);
    // It may come back after a crash, so its chunks must stay: it is not deleted.
    if (!status.ok()) static_cast<void>(disk_.Rename("bring it back", retired, folder));
  }
  residents_->EndRemove(uid, status.ok() || !Exists(folder));
  return status;
}

absl::Status DiskSnapshotStore::Delete(const std::string& uid) {
  // Before it goes, for the tenant whose chunks are to be swept: unknown, all are.
  const absl::StatusOr<SnapshotReader::Authentic> snapshot = reader_.Header(uid);
  const AtWork at_work(this, absl::StrCat(kDeleted, uid));
  RETURN_IF_ERROR(Retire(uid, /*though_held=*/true));
  std::optional<std::string> tenant;
  if (snapshot.ok()) tenant = snapshot->header.tenant();
  CollectResult result;
  RETURN_IF_ERROR(SweepChunks(tenant, &result));
  // Last: until then it tells the next Open() that chunks are to be swept.
  return disk_.RemoveTree("remove the retired snapshot",
                          absl::StrCat(paths_.incoming, "/", kDeleted, uid));
}

absl::StatusOr<CollectResult> DiskSnapshotStore::Collect(
    const std::function<bool(const SnapshotInfo&)>& keep) {
  CollectResult result;
  for (const std::string& uid : residents_->Uids()) {
    // First whether it is in use, then whether it is wanted: who publishes records it before the
    // pin goes, so one that nobody uses is either known to `keep` or will never be.
    const SnapshotInfo info = InfoOf(uid);
    if (info.in_use || absl::IsNotFound(info.problem) || keep(info)) continue;
    const uint64_t bytes = reader_.FileBytes(uid);
    const absl::Status status = Retire(uid, /*though_held=*/false);
    // Taken into use, or deleted, since.
    if (absl::IsFailedPrecondition(status) || absl::IsNotFound(status)) continue;
    RETURN_IF_ERROR(status);
    result.removed.push_back(uid);
    result.bytes_freed += bytes;
  }
  RETURN_IF_ERROR(SweepChunks(std::nullopt, &result));
  RETURN_IF_ERROR(ClearIncoming());
  return result;
}

absl::Status DiskSnapshotStore::SweepChunks(const std::optional<std::string>& tenant,
                                            CollectResult* result) {
  ChunkStore::Sweep sweep(&chunks_);
  // From the folder and not from the index: what is about to be added to that counts too.
  ASSIGN_OR_RETURN(const std::vector<std::string> uids, NamesIn(paths_.snapshots));
  std::map<std::string, std::vector<SnapshotReader::Authentic>> snapshots;
  bool unknown_tenant = false;
  for (const std::string& uid : uids) {
    absl::StatusOr<SnapshotReader::Authentic> snapshot = reader_.Header(uid);
    if (snapshot.ok()) {
      snapshots[snapshot->header.tenant()].push_back(*std::move(snapshot));
    } else if (Exists(absl::StrCat(paths_.snapshots, "/", uid))) {
      unknown_tenant = true;
      result->problems.emplace_back(snapshot.status().message());
    }
  }
  if (unknown_tenant) return absl::OkStatus();
  std::vector<std::string> tenants;
  if (tenant) {
    tenants = {*tenant};
  } else {
    ASSIGN_OR_RETURN(tenants, chunks_.Tenants());
  }
  for (const std::string& each : tenants) {
    DigestSet marked;
    bool whole = true;
    for (const SnapshotReader::Authentic& snapshot : snapshots[each]) {
      const absl::StatusOr<pb::Memory> manifest = reader_.Memory(snapshot);
      if (manifest.ok()) {
        Mark(*manifest, &marked);
      } else if (Exists(absl::StrCat(paths_.snapshots, "/", snapshot.header.uid()))) {
        whole = false;
        result->problems.emplace_back(manifest.status().message());
      }
    }
    if (!whole) continue;
    RETURN_IF_ERROR(disk_.Announce("sweep a tenant's chunks"));
    RETURN_IF_ERROR(sweep.Run(each, marked, &result->chunks_removed, &result->bytes_freed));
  }
  return absl::OkStatus();
}

}  // namespace hearth::control
