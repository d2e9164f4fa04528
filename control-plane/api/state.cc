// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/state.h"

#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>

#include "vmm/base/status.h"

namespace hearth::control {

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
  ASSIGN_OR_RETURN(state->metadata, OpenSqliteMetadata(absl::StrCat(state_dir, "/metadata.db")));
  ASSIGN_OR_RETURN(state->queue, OpenSqliteQueue(absl::StrCat(state_dir, "/queue.db")));
  ASSIGN_OR_RETURN(state->ledger, OpenSqliteLedger(absl::StrCat(state_dir, "/ledger.db")));
  ASSIGN_OR_RETURN(state->artifacts, ArtifactStore::Open(absl::StrCat(state_dir, "/artifacts")));
  ASSIGN_OR_RETURN(state->disks,
                   CodeDisks::Open(absl::StrCat(state_dir, "/code"), state->verified.get()));
  return state;
}

}  // namespace hearth::control
