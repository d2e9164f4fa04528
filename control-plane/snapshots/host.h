// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hearth/snapshot/v1/snapshot.pb.h"

namespace hearth::control {

// This host, for a snapshot's header and for CheckFits(): /proc/cpuinfo's first processor and
// uname(2).
absl::StatusOr<hearth::snapshot::v1::Host> HostDescription(const std::string& vmm_version);
// The same from text, for tests.
absl::StatusOr<hearth::snapshot::v1::Host> HostDescription(const std::string& vmm_version,
                                                           const std::string& cpuinfo,
                                                           const std::string& kernel_release);

// What keeps a snapshot that was made on `made_on` from running on `here`, each for itself: another
// CPU vendor, model, family, stepping, microcode or VMM version, CPU features that are missing. The
// kernel may be another. Empty: it runs, if the images are the same.
std::vector<std::string> HostDifferences(const hearth::snapshot::v1::Host& made_on,
                                         const hearth::snapshot::v1::Host& here);

// Whether a snapshot can run on `host` with `images`: no HostDifferences(), and the same images.
// FAILED_PRECONDITION names everything that differs.
absl::Status CheckFits(const hearth::snapshot::v1::Header& header,
                       const hearth::snapshot::v1::Host& host,
                       const hearth::snapshot::v1::Images& images);

}  // namespace hearth::control
