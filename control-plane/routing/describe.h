// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "control-plane/images/code_disks.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/node.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// All that a node needs to run `version`, whose code disk is `code`. FAILED_PRECONDITION when the
// image store no longer has its runtime. Kernel, agent and runtime are the store's present ones: a
// version gets their security fixes; its own code and settings never change.
absl::StatusOr<VersionPtr> DescribeVersion(const hearth::v1::Version& version,
                                           const ImageStore& images, const ImageFile& code);

}  // namespace hearth::control
