// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/file_pins.h"

#include "control-plane/images/artifact_store.h"
#include "control-plane/images/digest.h"
#include "vmm/base/status.h"

namespace hearth::control {

FilePins::Pin FilePins::Add(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  pinned_.insert(digest);
  return Pin(this, digest);
}

FilePins::Pin::~Pin() {
  if (pins_ == nullptr) return;
  absl::MutexLock lock(&pins_->mutex_);
  pins_->pinned_.erase(pins_->pinned_.find(digest_));
}

absl::StatusOr<int> FilePins::Collect(
    const std::string& folder, absl::FunctionRef<absl::StatusOr<std::set<std::string>>()> used) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const std::set<std::string> digests, used());
  std::set<std::string> names;
  for (const std::string& digest : digests) names.insert(DigestHex(digest));
  for (const std::string& digest : pinned_) names.insert(DigestHex(digest));
  return KeepOnly(folder, names);
}

}  // namespace hearth::control
