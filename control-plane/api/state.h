// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "control-plane/images/artifact_store.h"
#include "control-plane/images/code_disks.h"
#include "control-plane/images/image_store.h"
#include "control-plane/images/kept_images.h"
#include "control-plane/images/verified_files.h"
#include "control-plane/store/sqlite_stores.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {

// Everything durable of one hearthd: its state folder, held alone, and the image store.
struct State {
  // Errors say which folder, why, and what to do: FAILED_PRECONDITION when another hearthd has it.
  static absl::StatusOr<std::unique_ptr<State>> Open(const std::string& state_dir,
                                                     const std::string& images_dir);

  // Removes artifacts and code disks that nothing in the metadata refers to: those of what was
  // deleted, or of a crash between a file and its record. At any time, but on one thread at a time.
  absl::Status CollectGarbage();

  UniqueFd lock;  // Of <state>/lock, for as long as this hearthd lives.
  UuidGenerator uuids;
  std::unique_ptr<VerifiedFiles> verified;
  std::unique_ptr<ImageStore> images;
  std::unique_ptr<KeptImages> kept_images;  // Of snapshots.
  std::unique_ptr<MetadataStore> metadata;
  std::unique_ptr<InvocationQueue> queue;
  std::unique_ptr<Ledger> ledger;
  std::unique_ptr<ArtifactStore> artifacts;
  std::unique_ptr<CodeDisks> disks;
};

}  // namespace hearth::control
