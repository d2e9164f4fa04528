// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/reader.h"

#include <sys/stat.h>

#include "control-plane/snapshots/disk.h"
#include "control-plane/snapshots/limits.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

// Keys are dropped all together beyond so many tenants.
constexpr size_t kMaxCachedTenants = 1024;

absl::Status About(const std::string& uid, absl::string_view file, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("snapshot ", uid, ": ", file, " ", status.message()));
}

absl::Status Lost(const std::string& uid, absl::string_view file, absl::string_view why) {
  return About(uid, file, absl::DataLossError(why));
}

}  // namespace

std::string SnapshotReader::PathOf(const std::string& uid, absl::string_view file) const {
  return absl::StrCat(folder_, "/", uid, "/", file);
}

absl::StatusOr<std::string> SnapshotReader::Read(const std::string& uid, absl::string_view file,
                                                 size_t limit) const {
  absl::StatusOr<std::string> bytes = ReadFile(PathOf(uid, file), limit);
  if (bytes.ok()) return bytes;
  const absl::string_view shown = file == "memory" ? "memory manifest" : file;
  if (!absl::IsNotFound(bytes.status())) return About(uid, shown, bytes.status());
  // Of a file that should be there.
  return Lost(uid, shown, bytes.status().message());
}

absl::StatusOr<SnapshotReader::Authentic> SnapshotReader::Header(const std::string& uid) const {
  if (!Exists(absl::StrCat(folder_, "/", uid))) {
    return absl::NotFoundError(absl::StrCat("there is no snapshot ", uid));
  }
  ASSIGN_OR_RETURN(const std::string bytes, Read(uid, "header", limits::kMaxSnapshotHeaderBytes));
  Authentic snapshot;
  // Parsed before it is authenticated: the keys depend on the tenant it claims, and a later format
  // may be authenticated in another way. Up to the MAC it can only bring about its own refusal.
  absl::StatusOr<pb::Header> header = ParseHeader(bytes);
  if (!header.ok()) return About(uid, "header", header.status());
  snapshot.header = *std::move(header);
  if (snapshot.header.uid() != uid) {
    return Lost(uid, "header", absl::StrCat("is of another snapshot, ", snapshot.header.uid()));
  }
  // One byte more, to see one that is too long.
  ASSIGN_OR_RETURN(const std::string mac, Read(uid, "mac", limits::kSnapshotDigestBytes + 1));
  if (mac.size() != limits::kSnapshotDigestBytes) {
    return Lost(uid, "mac",
                absl::StrCat("is truncated or altered: it has ", mac.size(), " of ",
                             limits::kSnapshotDigestBytes, " bytes"));
  }
  snapshot.keys = KeysOf(snapshot.header.tenant());
  if (!SameDigest(Raw(KeyedDigest(snapshot.keys.header).Of(bytes)), mac)) {
    return Lost(
        uid, "header",
        "is altered or truncated, or made with another store's key: it does not fit its mac");
  }
  return snapshot;
}

absl::StatusOr<std::string> SnapshotReader::State(const Authentic& snapshot) const {
  const pb::Header& header = snapshot.header;
  ASSIGN_OR_RETURN(std::string state, Read(header.uid(), "state", wire::kMaxSavedStateBytes));
  if (state.size() < header.state_bytes()) {
    return Lost(header.uid(), "state",
                absl::StrCat("is truncated: it has ", state.size(), " of ", header.state_bytes(),
                             " bytes"));
  }
  if (!SameDigest(Raw(KeyedDigest(snapshot.keys.content).Of(state)), header.state_digest())) {
    return Lost(header.uid(), "state", "is altered or another snapshot's: its digest is another");
  }
  return state;
}

absl::StatusOr<pb::Memory> SnapshotReader::Memory(const Authentic& snapshot) const {
  const pb::Header& header = snapshot.header;
  ASSIGN_OR_RETURN(const std::string bytes,
                   Read(header.uid(), "memory", limits::kMaxMemoryManifestBytes));
  const uint64_t digests = PagesOf(header.memory_mib()) * wire::kGuestPageBytes /
                           limits::kSnapshotChunkBytes * limits::kSnapshotDigestBytes;
  if (bytes.size() < digests) {
    return Lost(header.uid(), "memory manifest",
                absl::StrCat("is truncated: it has ", bytes.size(), " bytes, and ", digests,
                             " of digests are due"));
  }
  if (!SameDigest(Raw(KeyedDigest(snapshot.keys.content).Of(bytes)), header.memory_digest())) {
    return Lost(header.uid(), "memory manifest",
                "is altered, truncated or another snapshot's: its digest is another");
  }
  absl::StatusOr<pb::Memory> memory = ParseMemory(bytes, header.memory_mib());
  if (!memory.ok()) return About(header.uid(), "memory manifest", memory.status());
  return memory;
}

absl::StatusOr<RecordedWorkingSet> SnapshotReader::WorkingSet(const Authentic& snapshot) const {
  const std::string& uid = snapshot.header.uid();
  ASSIGN_OR_RETURN(const std::string file,
                   Read(uid, "working-set", limits::kMaxWorkingSetFileBytes));
  const absl::string_view mac = absl::string_view(file).substr(0, limits::kSnapshotDigestBytes);
  const absl::string_view bytes = absl::string_view(file).substr(mac.size());
  if (!SameDigest(Raw(KeyedDigest(snapshot.keys.working_set).Of(uid, bytes)), mac)) {
    return Lost(uid, "working set",
                "is altered, truncated or another snapshot's: it does not fit its mac");
  }
  absl::StatusOr<RecordedWorkingSet> working_set =
      ParseWorkingSet(bytes, snapshot.header.memory_mib());
  if (!working_set.ok()) return About(uid, "working set", working_set.status());
  return working_set;
}

TenantKeys SnapshotReader::KeysOf(const std::string& tenant) const {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = keys_.find(tenant);
    if (found != keys_.end()) return found->second;
  }
  const TenantKeys keys = DeriveTenantKeys(store_key_, tenant);
  absl::MutexLock lock(&mutex_);
  if (keys_.size() >= kMaxCachedTenants) keys_.clear();
  return keys_.try_emplace(tenant, keys).first->second;
}

uint64_t SnapshotReader::FileBytes(const std::string& uid) const {
  uint64_t bytes = 0;
  for (const char* file : {"header", "state", "memory", "working-set", "mac"}) {
    struct stat info = {};
    if (lstat(PathOf(uid, file).c_str(), &info) == 0) bytes += static_cast<uint64_t>(info.st_size);
  }
  return bytes;
}

}  // namespace hearth::control
