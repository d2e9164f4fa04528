// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/snapshots/disk.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// Raw digests, 32 bytes each.
using DigestSet = std::unordered_set<std::string>;

// Files named by their content's digest, below a folder for each tenant: {tenant}/{2 hex}/{64 hex}.
//
// What is not marked is swept, beside publishers at work, by this argument. A publisher claims a
// digest before it looks whether the chunk is there, and a sweep removes a chunk with the claims'
// lock held, after it has looked for a claim: either the claim was first and the chunk stays, or
// the removal was and the publisher writes it. A claim that ends while a sweep runs counts until
// that sweep ends, since the sweep may have read the manifests before the publisher's was there.
// Thread-safe.
class ChunkStore {
  struct Claimed {
    std::string tenant;
    DigestSet digests;
    bool ended = false;
  };

 public:
  ChunkStore(const Disk* disk, std::string folder) : disk_(disk), folder_(std::move(folder)) {}

  // Guards the digests it is told of, until it goes. Of one thread; must not outlive the store.
  class Claim {
   public:
    Claim(ChunkStore* store, const std::string& tenant);
    ~Claim();
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    // Whether it is new to this claim.
    bool Add(absl::string_view digest);

   private:
    ChunkStore* const store_;
    std::shared_ptr<Claimed> claimed_;
  };

  // One at a time: the constructor waits. Begun before the manifests are read for their marks.
  class ABSL_SCOPED_LOCKABLE Sweep {
   public:
    explicit Sweep(ChunkStore* store) ABSL_EXCLUSIVE_LOCK_FUNCTION(store->sweep_mutex_);
    ~Sweep() ABSL_UNLOCK_FUNCTION();
    Sweep(const Sweep&) = delete;
    Sweep& operator=(const Sweep&) = delete;
    // Removes the tenant's chunks that are neither marked nor claimed, and adds to the counts.
    absl::Status Run(const std::string& tenant, const DigestSet& marked, uint64_t* chunks,
                     uint64_t* bytes);

   private:
    ChunkStore* const store_;
  };

  // The tenants that have chunks.
  absl::StatusOr<std::vector<std::string>> Tenants() const { return NamesIn(folder_); }
  // Folder of a tenant's chunks, for Read(). NOT_FOUND when it has none.
  absl::StatusOr<UniqueFd> OpenTenant(const std::string& tenant) const;
  // A chunk's file, to be read by ReadFd(); the kernel begins to read it ahead. Errors as
  // ReadFile()'s.
  static absl::StatusOr<UniqueFd> OpenChunk(int tenant_folder, absl::string_view digest);
  // Whether there is a chunk of that name with that very content: a damaged one is not taken for
  // it.
  bool Has(const std::string& tenant, absl::string_view digest, absl::string_view content) const;
  // Moves a written and synced file to its place, over a damaged one perhaps.
  absl::Status Install(const std::string& tenant, absl::string_view digest,
                       const std::string& from) const;

 private:
  std::string PathOf(const std::string& tenant, absl::string_view digest) const;

  const Disk* const disk_;
  const std::string folder_;
  absl::Mutex sweep_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  absl::Mutex mutex_;
  bool sweeping_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::shared_ptr<Claimed>> claims_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
