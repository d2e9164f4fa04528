// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "control-plane/images/artifact_store.h"
#include "control-plane/images/file_pins.h"
#include "control-plane/images/verified_files.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/node/node.h"
#include "vmm/base/status.h"

namespace hearth::control {

// A disk that was just built; not collected while this is there.
struct BuiltDisk : ImageFile {
  FilePins::Pin pin;
};

// The read-only disks with functions' code, named by their digest. Thread-safe.
class CodeDisks {
 public:
  // Makes `folder` when absent, and removes what builds that a crash cut off left in it.
  static absl::StatusOr<std::unique_ptr<CodeDisks>> Open(const std::string& folder,
                                                         VerifiedFiles* verified);

  // Unpacks the archive and builds an erofs of it; the same archive gives the same digest with the
  // same mkfs.erofs. INVALID_ARGUMENT when the archive is at fault, CANCELLED, or what the host
  // lacks. Leaves nothing behind but the disk.
  absl::StatusOr<BuiltDisk> Build(const std::string& archive, const Cancellation& cancellation);

  // A disk built before, verified.
  absl::StatusOr<ImageFile> Find(const std::string& digest) const;

  // Removes all but what is being built and these digests, as FilePins::Collect(). Machines that
  // have one open go on with it.
  absl::StatusOr<int> Prune(absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used);

 private:
  CodeDisks(std::string folder, VerifiedFiles* verified)
      : folder_(std::move(folder)), verified_(verified) {}
  absl::StatusOr<BuiltDisk> BuildIn(const std::string& work, const std::string& archive,
                                    const Cancellation& cancellation);

  const std::string folder_;
  VerifiedFiles* const verified_;
  FilePins pins_;
};

}  // namespace hearth::control
