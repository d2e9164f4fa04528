// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/chunks.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "control-plane/snapshots/limits.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

// "ab/abcdef...": below a tenant's folder.
std::string NameOf(absl::string_view digest) {
  const std::string hex = absl::BytesToHexString(digest);
  return absl::StrCat(hex.substr(0, 2), "/", hex);
}

// The digest that a chunk's file name tells; empty when it is no such name.
std::string DigestIn(absl::string_view name) {
  if (name.size() != 2 * limits::kSnapshotDigestBytes) return "";
  for (const char c : name) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return "";
  }
  return absl::HexStringToBytes(name);
}

}  // namespace

ChunkStore::Claim::Claim(ChunkStore* store, const std::string& tenant)
    : store_(store), claimed_(std::make_shared<Claimed>()) {
  claimed_->tenant = tenant;
  absl::MutexLock lock(&store_->mutex_);
  store_->claims_.push_back(claimed_);
}

ChunkStore::Claim::~Claim() {
  absl::MutexLock lock(&store_->mutex_);
  claimed_->ended = true;
  if (!store_->sweeping_) store_->claims_.remove(claimed_);
}

bool ChunkStore::Claim::Add(absl::string_view digest) {
  absl::MutexLock lock(&store_->mutex_);
  return claimed_->digests.emplace(digest).second;
}

ChunkStore::Sweep::Sweep(ChunkStore* store) : store_(store) {
  store_->sweep_mutex_.Lock();
  absl::MutexLock lock(&store_->mutex_);
  store_->sweeping_ = true;
}

ChunkStore::Sweep::~Sweep() {
  {
    absl::MutexLock lock(&store_->mutex_);
    store_->sweeping_ = false;
    store_->claims_.remove_if([](const auto& claim) { return claim->ended; });
  }
  store_->sweep_mutex_.Unlock();
}

absl::Status ChunkStore::Sweep::Run(const std::string& tenant, const DigestSet& marked,
                                    uint64_t* chunks, uint64_t* bytes) {
  const std::string folder = absl::StrCat(store_->folder_, "/", tenant);
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, NamesIn(folder));
  for (const std::string& part : parts) {
    ASSIGN_OR_RETURN(const std::vector<std::string> names,
                     NamesIn(absl::StrCat(folder, "/", part)));
    for (const std::string& name : names) {
      const std::string path = absl::StrCat(folder, "/", part, "/", name);
      const std::string digest = DigestIn(name);
      // What is no chunk is not ours to remove.
      if (digest.empty() || marked.count(digest) > 0) continue;
      struct stat info = {};
      if (lstat(path.c_str(), &info) != 0) continue;
      absl::MutexLock lock(&store_->mutex_);
      bool claimed = false;
      for (const std::shared_ptr<Claimed>& claim : store_->claims_) {
        claimed = claimed || (claim->tenant == tenant && claim->digests.count(digest) > 0);
      }
      if (claimed) continue;
      RETURN_IF_ERROR(store_->disk_->Remove("remove a chunk", path));
      ++*chunks;
      *bytes += static_cast<uint64_t>(info.st_size);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ChunkStore::OpenTenant(const std::string& tenant) const {
  const std::string path = absl::StrCat(folder_, "/", tenant);
  UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd && errno == ENOENT) return absl::NotFoundError("are missing");
  if (!fd) return ErrnoStatus(absl::StrCat("open ", path));
  return fd;
}

absl::StatusOr<UniqueFd> ChunkStore::OpenChunk(int tenant_folder, absl::string_view digest) {
  ASSIGN_OR_RETURN(UniqueFd file, OpenFileAt(tenant_folder, NameOf(digest)));
  static_cast<void>(posix_fadvise(file.get(), 0, 0, POSIX_FADV_WILLNEED));
  return file;
}

bool ChunkStore::Has(const std::string& tenant, absl::string_view digest,
                     absl::string_view content) const {
  const absl::StatusOr<std::string> stored =
      ReadFile(PathOf(tenant, digest), limits::kMaxStoredChunkBytes);
  return stored.ok() && *stored == content;
}

absl::Status ChunkStore::Install(const std::string& tenant, absl::string_view digest,
                                 const std::string& from) const {
  const std::string path = PathOf(tenant, digest);
  const std::string part = path.substr(0, path.rfind('/'));
  if (!Exists(part)) {
    RETURN_IF_ERROR(
        disk_->MakeFolder("make the tenant's folder", absl::StrCat(folder_, "/", tenant)));
    RETURN_IF_ERROR(disk_->MakeFolder("make a folder of chunks", part));
  }
  return disk_->Rename("install a chunk", from, path);
}

std::string ChunkStore::PathOf(const std::string& tenant, absl::string_view digest) const {
  return absl::StrCat(folder_, "/", tenant, "/", NameOf(digest));
}

}  // namespace hearth::control
