// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/status.h"
#include "control-plane/images/image_store.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// Whether a version can be made like this on a node with `capacity_mib`: INVALID_ARGUMENT with
// every wrong field, UNIMPLEMENTED for the HTTP interface. Whether the artifact exists is not its
// business.
absl::Status CheckVersionSpec(const hearth::v1::VersionSpec& spec, const ImageStore& images,
                              uint64_t capacity_mib);

}  // namespace hearth::control
