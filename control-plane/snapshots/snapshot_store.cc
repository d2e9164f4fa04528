// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/snapshot_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/memory_files.h"
#include "control-plane/snapshots/store_impl.h"
#include "control-plane/snapshots/working_sets.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

class Resident final : public ResidentSnapshot {
 public:
  Resident(pb::Header header, UniqueFd state, UniqueFd memory,
           std::shared_ptr<SharedWorkingSet> working_set)
      : header_(std::move(header)),
        state_(std::move(state)),
        memory_(std::move(memory)),
        working_set_(std::move(working_set)) {}

  const pb::Header& header() const override { return header_; }
  int state() const override { return state_.get(); }
  int memory() const override { return memory_.get(); }
  std::shared_ptr<const WorkingSet> working_set() const override { return working_set_->runs(); }
  uint32_t recordings() const override { return working_set_->recordings(); }
  uint64_t resident_bytes() const override {
    uint64_t bytes = 0;
    for (const UniqueFd* file : {&state_, &memory_}) {
      struct stat info = {};
      if (fstat(file->get(), &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
    }
    return bytes;
  }

 private:
  const pb::Header header_;
  const UniqueFd state_;
  const UniqueFd memory_;
  const std::shared_ptr<SharedWorkingSet> working_set_;
};

absl::StatusOr<UniqueFd> Lock(const StorePaths& paths) {
  UniqueFd lock(open(paths.lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return ErrnoStatus(absl::StrCat("open ", paths.lock));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(absl::StrCat("lock ", paths.lock));
    return absl::FailedPreconditionError(
        absl::StrCat("another process has the snapshot store ", paths.directory, " open"));
  }
  return lock;
}

absl::StatusOr<SnapshotKey> ReadKey(const StorePaths& paths) {
  struct stat info = {};
  if (lstat(paths.key.c_str(), &info) != 0) return ErrnoStatus(paths.key);
  if ((info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.key, " is open to others than its owner: give it the mode 0600"));
  }
  absl::StatusOr<std::string> bytes = ReadFile(paths.key, limits::kSnapshotKeyBytes);
  if (bytes.ok() && bytes->size() < limits::kSnapshotKeyBytes) {
    bytes = absl::DataLossError(
        absl::StrCat("has ", bytes->size(), " bytes, not ", limits::kSnapshotKeyBytes));
  }
  if (!bytes.ok()) return Annotate(bytes.status(), paths.key);
  SnapshotKey key;
  std::copy(bytes->begin(), bytes->end(), key.begin());
  return key;
}

absl::StatusOr<SnapshotKey> MakeKey(const Disk& disk, const StorePaths& paths) {
  ASSIGN_OR_RETURN(const std::vector<std::string> snapshots, NamesIn(paths.snapshots));
  if (!snapshots.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(paths.key, " is missing: without it none of the ", snapshots.size(),
                     " snapshots can be authenticated; bring it back, or remove ", paths.snapshots,
                     " and ", paths.chunks));
  }
  SnapshotKey key;
  // 32 bytes are never cut short (getrandom(2)).
  if (getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size())) {
    return ErrnoStatus("getrandom");
  }
  const std::string fresh = paths.key + ".new";
  RETURN_IF_ERROR(disk.Remove("remove an unfinished key", fresh));
  RETURN_IF_ERROR(disk.Write("write the key", fresh, Raw(key)));
  RETURN_IF_ERROR(disk.Sync("sync the key", fresh));
  RETURN_IF_ERROR(disk.Rename("rename the key", fresh, paths.key));
  RETURN_IF_ERROR(disk.Sync("sync the store's folder", paths.directory));
  return key;
}

absl::Status CheckDraft(const SnapshotDraft& draft) {
  const pb::Header& header = draft.header;
  if (!IsTenantId(header.tenant())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the draft's tenant \"", header.tenant(), "\" is not [A-Za-z0-9_-]{1,64}"));
  }
  if (header.memory_mib() == 0 || header.memory_mib() > limits::kMaxSnapshotMemoryMib) {
    return absl::InvalidArgumentError(absl::StrCat("the draft's memory of ", header.memory_mib(),
                                                   " MiB; 1 to ", limits::kMaxSnapshotMemoryMib,
                                                   " are possible"));
  }
  return CheckWorkingSet(draft.working_set, PagesOf(header.memory_mib()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotStore>> SnapshotStore::Open(SnapshotStoreConfig config) {
  const StorePaths paths(config.directory);
  std::error_code error;
  std::filesystem::create_directories(paths.directory, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("make ", paths.directory));
  ASSIGN_OR_RETURN(UniqueFd lock, Lock(paths));
  absl::StatusOr<SnapshotKey> key =
      Exists(paths.key) ? ReadKey(paths) : MakeKey(Disk(config.before_step), paths);
  RETURN_IF_ERROR(key.status());
  auto store = std::make_unique<DiskSnapshotStore>(std::move(config), std::move(lock), *key);
  RETURN_IF_ERROR(store->Recover());
  return store;
}

DiskSnapshotStore::DiskSnapshotStore(SnapshotStoreConfig config, UniqueFd lock,
                                     const SnapshotKey& key)
    : paths_(config.directory),
      lock_(std::move(lock)),
      disk_(std::move(config.before_step)),
      chunks_(&disk_, paths_.chunks),
      reader_(paths_.snapshots, key),
      residents_(std::make_shared<Residents>(config.resident_budget_bytes)) {}

absl::StatusOr<PublishedSnapshot> DiskSnapshotStore::Publish(SnapshotDraft draft,
                                                             Cancellation cancellation) {
  RETURN_IF_ERROR(CheckDraft(draft));
  PublishedSnapshot published;
  published.header = draft.header;
  pb::Header& header = published.header;
  header.set_format_version(limits::kSnapshotFormatVersion);
  header.set_uid(uuids_.Next());
  header.set_create_unix_ns(absl::ToUnixNanos(absl::Now()));
  const TenantKeys keys = reader_.KeysOf(header.tenant());
  const AtWork at_work(this, header.uid());
  Publisher publisher(&disk_, &chunks_, &paths_, keys, &header, &cancellation);
  const absl::Status status = publisher.Run(draft);
  if (!status.ok()) {
    CollectResult swept;
    // What this cannot clear away the next Collect() or Open() does: incoming/{uid} tells them.
    const bool clear = !publisher.Discard() || SweepChunks(header.tenant(), &swept).ok();
    if (clear) {
      static_cast<void>(disk_.RemoveTree("discard the incoming folder",
                                         absl::StrCat(paths_.incoming, "/", header.uid())));
    }
    return Annotate(status, "publish a snapshot");
  }
  published.pin = residents_->AddPinned(header.uid());
  published.written_bytes = publisher.written_bytes();
  return published;
}

absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> DiskSnapshotStore::Load(
    const std::string& uid) {
  ASSIGN_OR_RETURN(const SnapshotPin call, residents_->Begin(uid, Residents::Use::kCall));
  ASSIGN_OR_RETURN(const SnapshotReader::Authentic snapshot, reader_.Header(uid));
  ASSIGN_OR_RETURN(const std::string state, reader_.State(snapshot));
  return residents_->Acquire(uid, [&] { return LoadResident(snapshot, state); });
}

absl::StatusOr<Residents::Snapshot> DiskSnapshotStore::LoadResident(
    const SnapshotReader::Authentic& snapshot, const std::string& state) {
  const std::string& uid = snapshot.header.uid();
  const std::shared_ptr<SharedWorkingSet> shared = residents_->WorkingSetOf(uid);
  {
    absl::MutexLock lock(&working_set_mutex_);
    // One that is damaged costs a restore its speed and nothing else, so it is passed over.
    absl::StatusOr<RecordedWorkingSet> working_set = reader_.WorkingSet(snapshot);
    shared->Set(working_set.ok() ? *std::move(working_set) : RecordedWorkingSet());
  }
  ASSIGN_OR_RETURN(const pb::Memory manifest, reader_.Memory(snapshot));
  absl::StatusOr<UniqueFd> memory =
      LoadMemory(chunks_, snapshot.header.tenant(), snapshot.keys, manifest);
  if (!memory.ok()) return Annotate(memory.status(), absl::StrCat("snapshot ", uid));
  absl::StatusOr<UniqueFd> state_file = SealedMemfd("hearth-state", state);
  if (!state_file.ok()) return Annotate(state_file.status(), absl::StrCat("snapshot ", uid));
  return std::make_shared<const Resident>(snapshot.header, *std::move(state_file),
                                          *std::move(memory), shared);
}

absl::StatusOr<pb::Header> DiskSnapshotStore::Describe(const std::string& uid) {
  ASSIGN_OR_RETURN(const SnapshotPin call, residents_->Begin(uid, Residents::Use::kCall));
  ASSIGN_OR_RETURN(SnapshotReader::Authentic snapshot, reader_.Header(uid));
  RETURN_IF_ERROR(reader_.State(snapshot).status());
  return std::move(snapshot.header);
}

absl::Status DiskSnapshotStore::SetWorkingSet(const std::string& uid,
                                              const WorkingSet& working_set) {
  return StoreWorkingSet(uid, working_set, /*join=*/false);
}

absl::Status DiskSnapshotStore::AddRecording(const std::string& uid, const WorkingSet& recording) {
  return StoreWorkingSet(uid, recording, /*join=*/true);
}

absl::Status DiskSnapshotStore::StoreWorkingSet(const std::string& uid, const WorkingSet& runs,
                                                bool join) {
  ASSIGN_OR_RETURN(const SnapshotPin call, residents_->Begin(uid, Residents::Use::kCall));
  ASSIGN_OR_RETURN(const SnapshotReader::Authentic snapshot, reader_.Header(uid));
  RETURN_IF_ERROR(CheckWorkingSet(runs, PagesOf(snapshot.header.memory_mib())));
  absl::MutexLock lock(&working_set_mutex_);
  RecordedWorkingSet stored;
  if (join) {
    absl::StatusOr<RecordedWorkingSet> before = reader_.WorkingSet(snapshot);
    if (before.ok()) stored = *std::move(before);  // A damaged one is replaced.
  }
  stored.runs = JoinWorkingSets(stored.runs, runs, wire::kMaxPageRuns);
  stored.recordings = std::min(stored.recordings, UINT32_MAX - 1) + 1;
  const std::string name = absl::StrCat("working-set-", uid);
  const AtWork at_work(this, name);
  const std::string fresh = absl::StrCat(paths_.incoming, "/", name);
  RETURN_IF_ERROR(disk_.Remove("remove an unfinished working set", fresh));
  const absl::Cleanup done = [&] {
    static_cast<void>(disk_.Remove("discard the new working set", fresh));  // If it is still there.
  };
  RETURN_IF_ERROR(disk_.Write("write the new working set", fresh,
                              SealWorkingSet(snapshot.keys, uid, EncodeWorkingSet(stored))));
  RETURN_IF_ERROR(disk_.Sync("sync the new working set", fresh));
  RETURN_IF_ERROR(
      disk_.Rename("replace the working set", fresh, reader_.PathOf(uid, "working-set")));
  residents_->WorkingSetOf(uid)->Set(std::move(stored));
  return disk_.Sync("sync the snapshot's folder", absl::StrCat(paths_.snapshots, "/", uid));
}

absl::StatusOr<SnapshotPin> DiskSnapshotStore::Pin(const std::string& uid) {
  return residents_->Begin(uid, Residents::Use::kPin);
}

}  // namespace hearth::control
