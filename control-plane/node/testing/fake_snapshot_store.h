// SPDX-License-Identifier: Apache-2.0
// A snapshot store in memory, which fails when a test says so.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/snapshots/snapshot_store.h"

namespace hearth::control {

// What outlives a node, as a disk does, and what a test switches.
struct FakeDisk {
  struct Kept {
    hearth::snapshot::v1::Header header;
    std::shared_ptr<const WorkingSet> working_set = std::make_shared<WorkingSet>();
    uint32_t recordings = 0;
    bool damaged = false;
    absl::Status unreadable;  // Not OK: of its header.
    int pins = 0;
    int held = 0;  // By those who loaded it.
  };
  absl::Mutex mutex;
  std::map<std::string, Kept> kept ABSL_GUARDED_BY(mutex);
  int made ABSL_GUARDED_BY(mutex) = 0;
  std::atomic<bool> full{false};
  std::atomic<bool> resident{true};
  std::atomic<int> loads{0};
  std::atomic<int> evictions{0};
  std::function<void()> on_publish;
  std::function<void()> on_load;  // Called when one has been loaded.
  std::function<void()> on_list;  // Called when a list is made, before its caller has it.

  size_t size() {
    absl::MutexLock lock(&mutex);
    return kept.size();
  }
  void DamageAll() {
    absl::MutexLock lock(&mutex);
    for (auto& [uid, one] : kept) one.damaged = true;
  }
  uint32_t Recordings() {
    absl::MutexLock lock(&mutex);
    return kept.empty() ? 0 : kept.begin()->second.recordings;
  }
};

class FakeSnapshotStore final : public SnapshotStore {
 public:
  explicit FakeSnapshotStore(std::shared_ptr<FakeDisk> disk) : disk_(std::move(disk)) {}

  absl::StatusOr<PublishedSnapshot> Publish(SnapshotDraft draft,
                                            Cancellation cancellation) override {
    if (disk_->on_publish) disk_->on_publish();
    if (cancellation.cancelled()) return absl::CancelledError("cancelled");
    if (disk_->full) return absl::ResourceExhaustedError("the fake disk is full");
    PublishedSnapshot published;
    absl::MutexLock lock(&disk_->mutex);
    const std::string uid = absl::StrFormat("snapshot-%03d", ++disk_->made);
    draft.header.set_uid(uid);
    draft.header.set_format_version(1);
    draft.header.set_create_unix_ns(disk_->made);
    disk_->kept[uid].header = draft.header;
    published.header = draft.header;
    published.pin = PinLocked(uid);
    return published;
  }

  absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> Load(const std::string& uid) override {
    ++disk_->loads;
    auto loaded = Find(uid);
    if (disk_->on_load) disk_->on_load();
    return loaded;
  }
  bool IsResident(const std::string&) override { return disk_->resident; }
  absl::StatusOr<hearth::snapshot::v1::Header> Describe(const std::string& uid) override {
    auto loaded = Load(uid);
    if (!loaded.ok()) return loaded.status();
    return (*loaded)->header();
  }
  absl::Status SetWorkingSet(const std::string& uid, const WorkingSet& working_set) override {
    return Keep(uid, working_set, 1);
  }
  absl::Status AddRecording(const std::string& uid, const WorkingSet& recording) override {
    return Keep(uid, recording, 0);
  }
  absl::StatusOr<SnapshotPin> Pin(const std::string& uid) override {
    absl::MutexLock lock(&disk_->mutex);
    if (disk_->kept.count(uid) == 0) return absl::NotFoundError("no such snapshot");
    return PinLocked(uid);
  }
  absl::Status Delete(const std::string& uid) override {
    absl::MutexLock lock(&disk_->mutex);
    const auto found = disk_->kept.find(uid);
    if (found == disk_->kept.end()) return absl::NotFoundError("no such snapshot");
    if (found->second.pins > 0) return absl::FailedPreconditionError("it is in use");
    disk_->kept.erase(found);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<SnapshotInfo>> List() override {
    std::vector<SnapshotInfo> infos = ListNow();
    if (disk_->on_list) disk_->on_list();
    return infos;
  }
  absl::StatusOr<CollectResult> Collect(const std::function<bool(const SnapshotInfo&)>&) override {
    return CollectResult();
  }
  uint64_t Evict(uint64_t) override {
    ++disk_->evictions;
    return 0;
  }
  uint64_t ResidentBytes() override { return 0; }

 private:
  class Resident final : public ResidentSnapshot {
   public:
    Resident(std::shared_ptr<FakeDisk> disk, hearth::snapshot::v1::Header header)
        : disk_(std::move(disk)), header_(std::move(header)) {}
    ~Resident() override {
      absl::MutexLock lock(&disk_->mutex);
      const auto found = disk_->kept.find(header_.uid());
      if (found != disk_->kept.end()) --found->second.held;
    }
    const hearth::snapshot::v1::Header& header() const override { return header_; }
    int state() const override { return -1; }
    int memory() const override { return -1; }
    std::shared_ptr<const WorkingSet> working_set() const override { return Now().working_set; }
    uint32_t recordings() const override { return Now().recordings; }
    uint64_t resident_bytes() const override { return 0; }

   private:
    FakeDisk::Kept Now() const {
      absl::MutexLock lock(&disk_->mutex);
      const auto found = disk_->kept.find(header_.uid());
      return found == disk_->kept.end() ? FakeDisk::Kept() : found->second;
    }
    const std::shared_ptr<FakeDisk> disk_;
    const hearth::snapshot::v1::Header header_;
  };

  std::vector<SnapshotInfo> ListNow() {
    std::vector<SnapshotInfo> infos;
    absl::MutexLock lock(&disk_->mutex);
    for (const auto& [uid, kept] : disk_->kept) {
      SnapshotInfo& info = infos.emplace_back();
      info.uid = uid;
      info.header = kept.header;
      info.resident = true;
      info.in_use = kept.pins > 0 || kept.held > 0;
      if (kept.header.format_version() > 1) {
        info.header.Clear();
        info.problem = absl::FailedPreconditionError("the fake snapshot is of a newer Hearth");
      }
      if (!kept.unreadable.ok()) {
        info.header.Clear();
        info.problem = kept.unreadable;
      }
      if (kept.damaged) info.problem = absl::DataLossError("the fake snapshot was altered");
    }
    return infos;
  }
  absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> Find(const std::string& uid) {
    absl::MutexLock lock(&disk_->mutex);
    const auto found = disk_->kept.find(uid);
    if (found == disk_->kept.end()) return absl::NotFoundError("no such snapshot");
    if (found->second.damaged) return absl::DataLossError("the fake snapshot was altered");
    ++found->second.held;
    return std::make_shared<Resident>(disk_, found->second.header);
  }
  SnapshotPin PinLocked(const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(disk_->mutex) {
    ++disk_->kept[uid].pins;
    return SnapshotPin([disk = disk_, uid] {
      absl::MutexLock lock(&disk->mutex);
      --disk->kept[uid].pins;
    });
  }
  absl::Status Keep(const std::string& uid, const WorkingSet& pages, uint32_t recordings) {
    absl::MutexLock lock(&disk_->mutex);
    const auto found = disk_->kept.find(uid);
    if (found == disk_->kept.end()) return absl::NotFoundError("no such snapshot");
    found->second.working_set = std::make_shared<WorkingSet>(pages);
    found->second.recordings = recordings != 0 ? recordings : found->second.recordings + 1;
    return absl::OkStatus();
  }

  const std::shared_ptr<FakeDisk> disk_;
};

}  // namespace hearth::control
