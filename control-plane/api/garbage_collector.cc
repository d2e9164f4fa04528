// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/garbage_collector.h"

#include <spdlog/spdlog.h>

namespace hearth::control {

void GarbageCollector::Wake() {
  const bool taken = worker_.TrySubmit([this] {
    const absl::Status status = state_->CollectGarbage();
    // The next one, or the next start, tries again.
    if (!status.ok()) spdlog::warn("cannot collect garbage: {}", std::string(status.message()));
  });
  static_cast<void>(taken);  // Else one waits already.
}

}  // namespace hearth::control
