// SPDX-License-Identifier: Apache-2.0
// The programs that doctor looks for and runs.
#pragma once

#include <chrono>
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

// Many times what the slowest of them takes: a program that hangs is no reason to hang with it.
inline constexpr std::chrono::seconds kProgramTimeout{60};

// Runs command[0], a path, to its end. UNKNOWN when it cannot be started; DEADLINE_EXCEEDED when it
// takes longer than `time_out`, and is killed.
absl::StatusOr<ProgramResult> RunProgram(const std::vector<std::string>& command, bool errors,
                                         std::chrono::milliseconds time_out = kProgramTimeout);

}  // namespace hearth::cli
