// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "control-plane/snapshots/chunks.h"
#include "control-plane/snapshots/keys.h"
#include "control-plane/snapshots/snapshot_store.h"

namespace hearth::control {

// Where the parts of the store lie.
struct StorePaths {
  explicit StorePaths(const std::string& directory);
  std::string directory, key, lock, snapshots, chunks, incoming;
};

// One snapshot on its way to the disk, in this order, so that a crash at any point leaves it whole
// or absent:
//   1. its chunks that are not there yet, as incoming/{uid}/chunks/{n}; one sync; each one renamed
//      to its place: a chunk that has its name is whole
//   2. header, state, memory, working-set and mac in incoming/{uid}/snapshot; one sync, which also
//      makes the names of the chunks durable
//   3. the folder renamed to snapshots/{uid}; the parent synced
//   4. incoming/{uid} removed
// Open() removes what it finds in incoming/, and the chunks that nobody has. Used by one thread.
class Publisher {
 public:
  // `header` is the one to be written, with uid and tenant. All must outlive it.
  Publisher(const Disk* disk, ChunkStore* chunks, const StorePaths* paths, const TenantKeys& keys,
            hearth::snapshot::v1::Header* header, const Cancellation* cancellation);

  // Writes everything; fills in the header. After an error Discard() must follow.
  absl::Status Run(const SnapshotDraft& draft);
  // Takes the folder back and gives up its claim to chunks: those that got their names are left for
  // a sweep; true when there are. incoming/{uid} is to be removed after that.
  bool Discard();

  uint64_t written_bytes() const { return written_bytes_; }

 private:
  absl::Status WriteChunks(const SnapshotDraft& draft, std::string* manifest);
  absl::Status WriteFolder(const SnapshotDraft& draft, const std::string& manifest);
  absl::Status WriteOne(const char* step, const std::string& path, absl::string_view bytes);
  absl::Status CheckCancelled() const;

  const Disk* const disk_;
  const StorePaths* const paths_;
  const TenantKeys& keys_;
  hearth::snapshot::v1::Header* const header_;
  const Cancellation* const cancellation_;
  ChunkStore* const chunks_;
  const std::string incoming_;
  const std::string final_;
  KeyedDigest content_;
  // Until the manifest can be seen by a sweep, or nothing is left to protect.
  std::optional<ChunkStore::Claim> claim_;
  bool renamed_ = false;
  bool installed_ = false;
  uint64_t written_bytes_ = 0;
};

// The file `working-set` of a snapshot: a MAC over the uid and the rest, and the rest.
std::string SealWorkingSet(const TenantKeys& keys, const std::string& uid,
                           const std::string& encoded);

}  // namespace hearth::control
