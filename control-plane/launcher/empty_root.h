// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/status.h"

namespace hearth::launcher {

// Moves this process into a mount namespace of its own whose only mount is an empty, read-only
// root. Descriptors that are open keep working. Children that are cloned with CLONE_NEWNS get a
// copy of it, which takes no longer than one mount does.
absl::Status EnterEmptyRoot();

}  // namespace hearth::launcher
