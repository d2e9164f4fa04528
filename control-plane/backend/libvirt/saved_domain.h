// SPDX-License-Identifier: Apache-2.0
// A saved domain's two files (proto/hearth/libvirt/v1/saved_domain.proto).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "control-plane/backend/libvirt/domain_xml.h"
#include "hearth/libvirt/v1/saved_domain.pb.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

inline constexpr uint32_t kSavedDomainVersion = 1;

// All but the image. `disks` are the files of spec.disks.
absl::StatusOr<v1::SavedDomain> Describe(const DomainSpec& spec, const std::vector<UniqueFd>& disks,
                                         const std::string& hypervisor);

// Writes `saved` and the image at `path` into two empty files. RESOURCE_EXHAUSTED when the image is
// larger than guest memory and kMaxImageTailBytes.
absl::Status WriteSaved(v1::SavedDomain saved, const std::string& path, int state, int memory);

// Reads and checks a state file. INVALID_ARGUMENT when it is none, FAILED_PRECONDITION when a
// later hearth-libvirt wrote it.
absl::StatusOr<v1::SavedDomain> ReadSaved(int state);

// FAILED_PRECONDITION, naming all that differs, when it cannot be restored by this hypervisor with
// this processor and these disks, or needs `vsock` that is not there.
absl::Status CheckSaved(const v1::SavedDomain& saved, const std::string& hypervisor, bool kvm,
                        bool vsock, const std::vector<DiskSpec>& specs,
                        const std::vector<UniqueFd>& disks, bool console);

// The image, into a new file at `path`.
absl::Status WriteImage(const v1::SavedDomain& saved, int memory, const std::string& path);

}  // namespace hearth::libvirt
