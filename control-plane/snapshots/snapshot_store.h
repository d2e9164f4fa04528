// SPDX-License-Identifier: Apache-2.0
// Snapshots on this host's disk, and the memory of those in use; docs/snapshots.md holds the
// layout, the format and what is refused with which words.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "control-plane/backend/working_set.h"
#include "control-plane/node/cancellation.h"
#include "hearth/snapshot/v1/snapshot.pb.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

struct SnapshotStoreConfig {
  std::string directory;  // Absolute; made when absent. Of one process at a time.
  // What the store keeps resident on its own account; what callers hold may be more.
  uint64_t resident_budget_bytes = 0;
  // For tests: called before each step that changes the disk, with its name; a status that is not
  // OK is taken for the step's own failure. May be called by several threads.
  std::function<absl::Status(const char* step)> before_step = nullptr;
};

// What Publish() makes a snapshot of.
struct SnapshotDraft {
  // To be filled in: tenant, version, version_uid, host (HostDescription()), images, memory_mib,
  // vcpu_count, devices, boot_ns, init_ns, cpu_ns. The store writes the rest: format_version, uid,
  // create_unix_ns, the digests and sizes.
  hearth::snapshot::v1::Header header;
  // Borrowed: what Machine::Save() wrote. Read from their beginnings, whatever their offsets are.
  int state = -1;
  int memory = -1;         // memory_mib MiB long; holes are skipped.
  WorkingSet working_set;  // Empty when not recorded yet.
};

// A snapshot that is verified and in memory. While anybody holds one the store neither collects the
// snapshot nor evicts its memory. Thread-safe.
class ResidentSnapshot {
 public:
  virtual ~ResidentSnapshot() = default;
  virtual const hearth::snapshot::v1::Header& header() const = 0;
  // Sealed memfds (F_SEAL_SEAL, SHRINK, GROW, WRITE), for RestoreSpec; they live as long as this.
  virtual int state() const = 0;
  virtual int memory() const = 0;
  // The newest one; empty when none was recorded or the stored one is damaged.
  virtual std::shared_ptr<const WorkingSet> working_set() const = 0;
  virtual uint32_t recordings() const = 0;  // How many recordings it is made of.
  // What its memfds take of the host's memory now.
  virtual uint64_t resident_bytes() const = 0;
};

// Keeps a snapshot from being deleted or collected while it lives. Move-only; outlives the store
// without harm.
class SnapshotPin {
 public:
  SnapshotPin() = default;
  explicit SnapshotPin(std::function<void()> release) : release_(std::move(release)) {}
  SnapshotPin(SnapshotPin&& other) noexcept : release_(std::exchange(other.release_, nullptr)) {}
  SnapshotPin& operator=(SnapshotPin&& other) noexcept {
    if (this != &other) {
      Release();
      release_ = std::exchange(other.release_, nullptr);
    }
    return *this;
  }
  ~SnapshotPin() { Release(); }
  void Release() {
    if (release_) std::exchange(release_, nullptr)();
  }
  explicit operator bool() const { return static_cast<bool>(release_); }

 private:
  std::function<void()> release_;
};

struct PublishedSnapshot {
  hearth::snapshot::v1::Header header;
  uint64_t written_bytes = 0;  // To the disk: the chunks that were not there yet, and the files.
  // To be held until the snapshot is recorded where Collect()'s `keep` looks.
  SnapshotPin pin;
};

struct SnapshotInfo {
  std::string uid;
  // Why it cannot be loaded, as far as header and state tell; then `header` may be empty.
  absl::Status problem;
  hearth::snapshot::v1::Header header;
  uint64_t stored_bytes = 0;  // Its files and its different chunks, shared ones included.
  uint64_t resident_bytes = 0;
  bool resident = false;  // Its memory is loaded.
  bool in_use = false;    // Pinned, held or being loaded.
};

struct CollectResult {
  std::vector<std::string> removed;  // uids
  uint64_t chunks_removed = 0;
  uint64_t bytes_freed = 0;
  // Damaged snapshots that are kept and whose chunks are unknown: their tenants' chunks (all chunks
  // if the tenant is unknown) were not swept. Deleting the snapshot lets the sweep go on.
  std::vector<std::string> problems;
};

// Thread-safe; every call may block on the disk.
class SnapshotStore {
 public:
  // Makes the folder and its key when absent, removes what an interrupted Publish() or Delete()
  // left. FAILED_PRECONDITION when another process has it open.
  static absl::StatusOr<std::unique_ptr<SnapshotStore>> Open(SnapshotStoreConfig config);
  // Waits for no one: callers have ended their calls. What they hold lives on.
  virtual ~SnapshotStore() = default;

  // Stores a snapshot durably: whole or, after any failure or crash, not at all.
  // INVALID_ARGUMENT for a draft that is not one, RESOURCE_EXHAUSTED when the disk is full,
  // CANCELLED.
  virtual absl::StatusOr<PublishedSnapshot> Publish(SnapshotDraft draft,
                                                    Cancellation cancellation) = 0;

  // Authenticates header and state as they are on the disk now, and loads and verifies the memory
  // unless it is resident; several callers of one uid load it once. NOT_FOUND; DATA_LOSS, naming
  // what is altered, truncated, missing or of another snapshot; FAILED_PRECONDITION for a format
  // newer than ours; RESOURCE_EXHAUSTED when memory or descriptors are short. Does not judge
  // whether it fits the host: CheckFits() does (control-plane/snapshots/host.h).
  virtual absl::StatusOr<std::shared_ptr<const ResidentSnapshot>> Load(const std::string& uid) = 0;

  // Whether Load() would find its memory resident if it were called now.
  virtual bool IsResident(const std::string& uid) = 0;

  // Header alone, authenticated together with the state. Errors as Load()'s.
  virtual absl::StatusOr<hearth::snapshot::v1::Header> Describe(const std::string& uid) = 0;

  // Replaces the working set, or joins one more recording to it. Atomic and durable; at most
  // wire::kMaxPageRuns runs are kept, bridging the smallest gaps. Held ResidentSnapshots show it.
  // INVALID_ARGUMENT when a run lies beyond the memory, is empty, or the order is wrong.
  virtual absl::Status SetWorkingSet(const std::string& uid, const WorkingSet& working_set) = 0;
  virtual absl::Status AddRecording(const std::string& uid, const WorkingSet& recording) = 0;

  // NOT_FOUND when there is none of that uid.
  virtual absl::StatusOr<SnapshotPin> Pin(const std::string& uid) = 0;

  // FAILED_PRECONDITION while it is pinned or being loaded. Held ResidentSnapshots stay good; their
  // memory goes with the last holder. Frees the chunks that no other snapshot has.
  virtual absl::Status Delete(const std::string& uid) = 0;

  // All snapshots on the disk, damaged ones included, by uid (the order of making).
  virtual absl::StatusOr<std::vector<SnapshotInfo>> List() = 0;

  // Deletes each snapshot that nobody pins, holds or loads and that `keep` does not want, then
  // every chunk that no snapshot has. Safe beside Publish(). `keep` is called without locks.
  virtual absl::StatusOr<CollectResult> Collect(
      const std::function<bool(const SnapshotInfo&)>& keep) = 0;

  // Frees resident memory that nobody holds, the least recently used first, until `bytes` are freed
  // or nothing is left. Returns the bytes freed.
  virtual uint64_t Evict(uint64_t bytes) = 0;
  // What is resident now, whether held or kept.
  virtual uint64_t ResidentBytes() = 0;
};

}  // namespace hearth::control
