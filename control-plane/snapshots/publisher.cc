// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/publisher.h"

#include <algorithm>

#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/limits.h"
#include "control-plane/snapshots/memory_files.h"
#include "control-plane/snapshots/working_sets.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
StorePaths::StorePaths(const std::string& directory)
    : directory(directory),
      key(directory + "/key"),
      lock(directory + "/lock"),
      snapshots(directory + "/snapshots"),
      chunks(directory + "/chunks"),
      incoming(directory + "/incoming") {}

Publisher::Publisher(const Disk* disk, ChunkStore* chunks, const StorePaths* paths,
                     const TenantKeys& keys, hearth::snapshot::v1::Header* header,
                     const Cancellation* cancellation)
    : disk_(disk),
      paths_(paths),
      keys_(keys),
      header_(header),
      cancellation_(cancellation),
      chunks_(chunks),
      incoming_(absl::StrCat(paths->incoming, "/", header->uid())),
      final_(absl::StrCat(paths->snapshots, "/", header->uid())),
      content_(keys.content),
      claim_(std::in_place, chunks, header->tenant()) {}

absl::Status Publisher::Run(const SnapshotDraft& draft) {
  RETURN_IF_ERROR(disk_->MakeFolder("make the incoming folder", incoming_));
  std::string manifest;
  RETURN_IF_ERROR(WriteChunks(draft, &manifest));
  RETURN_IF_ERROR(WriteFolder(draft, manifest));
  RETURN_IF_ERROR(CheckCancelled());
  RETURN_IF_ERROR(
      disk_->Rename("publish the folder", absl::StrCat(incoming_, "/snapshot"), final_));
  renamed_ = true;
  RETURN_IF_ERROR(disk_->Sync("sync the folder of snapshots", paths_->snapshots));
  // It is published: what cannot be cleared away now is by the next Open().
  static_cast<void>(disk_->RemoveTree("remove the incoming folder", incoming_));
  return absl::OkStatus();
}

absl::Status Publisher::WriteChunks(const SnapshotDraft& draft, std::string* manifest) {
  const uint64_t bytes = uint64_t{header_->memory_mib()} << 20;
  hearth::snapshot::v1::Memory memory;
  memory.set_bytes(bytes);
  memory.set_chunk_bytes(limits::kSnapshotChunkBytes);
  std::string& digests = *memory.mutable_chunks();
  digests.assign(bytes / limits::kSnapshotChunkBytes * limits::kSnapshotDigestBytes, '\0');
  const std::string folder = absl::StrCat(incoming_, "/chunks");
  RETURN_IF_ERROR(disk_->MakeFolder("make the folder of new chunks", folder));

  std::vector<std::string> fresh;
  uint64_t data_bytes = 0;
  uint64_t chunk_bytes = 0;
  const absl::Status read = ForEachDataChunk(
      draft.memory, bytes, [&](uint64_t index, absl::string_view chunk) -> absl::Status {
        RETURN_IF_ERROR(CheckCancelled());
        const std::string stored = EncodeChunk(chunk);
        const SnapshotDigest digest = content_.Of(stored);
        std::copy(digest.begin(), digest.end(),
                  digests.begin() + static_cast<ptrdiff_t>(index * digest.size()));
        data_bytes += ParseChunk(stored)->data.size();
        if (!claim_->Add(Raw(digest))) return absl::OkStatus();
        chunk_bytes += stored.size();
        if (chunks_->Has(header_->tenant(), Raw(digest), stored)) return absl::OkStatus();
        fresh.emplace_back(Raw(digest));
        return WriteOne("write a chunk", absl::StrCat(folder, "/", fresh.size() - 1), stored);
      });
  RETURN_IF_ERROR(read);
  header_->set_data_bytes(data_bytes);
  header_->set_chunk_bytes(chunk_bytes);
  *manifest = memory.SerializeAsString();
  if (fresh.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(disk_->SyncFileSystem("sync the chunks", folder));
  for (size_t i = 0; i < fresh.size(); ++i) {
    installed_ = true;
    RETURN_IF_ERROR(chunks_->Install(header_->tenant(), fresh[i], absl::StrCat(folder, "/", i)));
  }
  return absl::OkStatus();
}

absl::Status Publisher::WriteFolder(const SnapshotDraft& draft, const std::string& manifest) {
  const std::string folder = absl::StrCat(incoming_, "/snapshot");
  ASSIGN_OR_RETURN(const std::string state, ReadWhole(draft.state, wire::kMaxSavedStateBytes));
  header_->set_state_bytes(state.size());
  header_->set_state_digest(std::string(Raw(content_.Of(state))));
  header_->set_memory_digest(std::string(Raw(content_.Of(manifest))));
  const std::string bytes = header_->SerializeAsString();
  // What we could not read again must not be written.
  const absl::Status readable = ParseHeader(bytes).status();
  if (!readable.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("the draft's header ", readable.message()));
  }
  RecordedWorkingSet working_set;
  working_set.runs = draft.working_set;
  working_set.recordings = draft.working_set.empty() ? 0 : 1;
  RETURN_IF_ERROR(disk_->MakeFolder("make the snapshot's folder", folder));
  RETURN_IF_ERROR(WriteOne("write the state", folder + "/state", state));
  RETURN_IF_ERROR(WriteOne("write the memory manifest", folder + "/memory", manifest));
  RETURN_IF_ERROR(WriteOne("write the working set", folder + "/working-set",
                           SealWorkingSet(keys_, header_->uid(), EncodeWorkingSet(working_set))));
  RETURN_IF_ERROR(WriteOne("write the header", folder + "/header", bytes));
  RETURN_IF_ERROR(
      WriteOne("write the mac", folder + "/mac", Raw(KeyedDigest(keys_.header).Of(bytes))));
  return disk_->SyncFileSystem("sync the snapshot", folder);
}

absl::Status Publisher::WriteOne(const char* step, const std::string& path,
                                 absl::string_view bytes) {
  RETURN_IF_ERROR(disk_->Write(step, path, bytes));
  written_bytes_ += bytes.size();
  return absl::OkStatus();
}

absl::Status Publisher::CheckCancelled() const {
  return cancellation_->cancelled() ? absl::CancelledError("publishing the snapshot was cancelled")
                                    : absl::OkStatus();
}

bool Publisher::Discard() {
  // Not within a step of its own: whatever failed, this is what can be done about it.
  if (renamed_) {
    static_cast<void>(
        disk_->Rename("take the folder back", final_, absl::StrCat(incoming_, "/snapshot")));
  }
  claim_.reset();
  return installed_;
}

std::string SealWorkingSet(const TenantKeys& keys, const std::string& uid,
                           const std::string& encoded) {
  return absl::StrCat(Raw(KeyedDigest(keys.working_set).Of(uid, encoded)), encoded);
}

}  // namespace hearth::control
