// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "control-plane/node/cancellation.h"

namespace hearth::control {

struct ChildResult {
  int exit_code = -1;  // -1 when it was ended by a signal.
  int signal = 0;
  std::string output;  // Its stdout and stderr, the last 4 KiB.
};

// Runs a program (found on PATH) to its end with an empty stdin, and reaps it, whatever happens.
// Cancelled, it is killed and the answer is CANCELLED.
absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments,
                                     const Cancellation& cancellation);

}  // namespace hearth::control
