// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/state.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>

#include <filesystem>

#include "control-plane/api/records.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {
namespace {

using Digests = std::set<std::string>;

absl::StatusOr<Digests> UsedArtifacts(MetadataStore& metadata) {
  Digests used;
  RETURN_IF_ERROR(metadata.Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto kept, t.All(Kind::kArtifact));
    for (const Record& record : kept) {
      ASSIGN_OR_RETURN(auto artifact, Load<hearth::v1::Artifact>(t, Kind::kArtifact, record.name));
      used.insert(artifact.digest());
    }
    return absl::OkStatus();
  }));
  return used;
}

absl::StatusOr<Digests> UsedDisks(MetadataStore& metadata) {
  Digests used;
  RETURN_IF_ERROR(metadata.Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto versions, t.All(Kind::kVersion));
    for (const Record& record : versions) {
      ASSIGN_OR_RETURN(auto version, Load<hearth::v1::Version>(t, Kind::kVersion, record.name));
      if (version.state() == hearth::v1::Version::READY) used.insert(version.code_digest());
    }
    return absl::OkStatus();
  }));
  return used;
}

}  // namespace

absl::StatusOr<std::unique_ptr<State>> State::Open(const std::string& state_dir,
                                                   const std::string& images_dir) {
  std::error_code error;
  std::filesystem::create_directories(state_dir, error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("cannot make the state directory ", state_dir,
                                                   "; choose another with --state-dir"));
  }
  auto state = std::make_unique<State>();
  const std::string lock_path = absl::StrCat(state_dir, "/lock");
  state->lock = UniqueFd(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!state->lock) {
    return ErrnoStatus(absl::StrCat("cannot write to the state directory ", state_dir, " (opening ",
                                    lock_path, "); choose another with --state-dir"));
  }
  if (flock(state->lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another hearthd uses the state directory ", state_dir,
                     "; stop it, or choose another with --state-dir"));
  }
  state->verified = std::make_unique<VerifiedFiles>(absl::StrCat(state_dir, "/verified"));
  ASSIGN_OR_RETURN(state->images, ImageStore::Load(images_dir, state->verified.get()));
  ASSIGN_OR_RETURN(state->kept_images,
                   KeptImages::Open(absl::StrCat(state_dir, "/images"), state->verified.get()));
  ASSIGN_OR_RETURN(state->metadata, OpenSqliteMetadata(absl::StrCat(state_dir, "/metadata.db")));
  ASSIGN_OR_RETURN(state->queue, OpenSqliteQueue(absl::StrCat(state_dir, "/queue.db")));
  ASSIGN_OR_RETURN(state->ledger, OpenSqliteLedger(absl::StrCat(state_dir, "/ledger.db")));
  ASSIGN_OR_RETURN(state->artifacts, ArtifactStore::Open(absl::StrCat(state_dir, "/artifacts")));
  ASSIGN_OR_RETURN(state->disks,
                   CodeDisks::Open(absl::StrCat(state_dir, "/code"), state->verified.get()));
  return state;
}

absl::Status State::CollectGarbage() {
  ASSIGN_OR_RETURN(const int removed_artifacts,
                   artifacts->Prune([&] { return UsedArtifacts(*metadata); }));
  ASSIGN_OR_RETURN(const int removed_disks, disks->Prune([&] { return UsedDisks(*metadata); }));
  if (removed_artifacts + removed_disks > 0) {
    spdlog::info("removed {} artifacts and {} code disks that nothing refers to", removed_artifacts,
                 removed_disks);
  }
  return absl::OkStatus();
}

}  // namespace hearth::control
