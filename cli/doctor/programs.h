// SPDX-License-Identifier: Apache-2.0
// The programs that doctor looks for and runs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hearth::cli {

// Where `name` is: beside this program, where an installation or a build tree keeps it, in PATH or
// /usr/sbin (whoever asks). Empty: nowhere.
std::string FindProgram(const std::string& name);

struct ProgramResult {
  int wait_status = 0;  // As waitpid() gives it.
  std::string output;   // Its standard output, with `errors` its standard error too.
};

// Runs command[0], a path, to its end. UNKNOWN when it cannot be started.
absl::StatusOr<ProgramResult> RunProgram(std::vector<std::string> command, bool errors);

}  // namespace hearth::cli
