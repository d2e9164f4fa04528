// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

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

// Whether a snapshot can run on `host` with `images`: same CPU vendor, family, model, stepping and
// microcode, at least the features it was made with, the same VMM version, the same images. The
// host's kernel may be another. FAILED_PRECONDITION names everything that differs.
absl::Status CheckFits(const hearth::snapshot::v1::Header& header,
                       const hearth::snapshot::v1::Host& host,
                       const hearth::snapshot::v1::Images& images);

}  // namespace hearth::control
