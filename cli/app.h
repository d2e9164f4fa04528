// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "cli/interrupt.h"
#include "cli/terminal.h"

namespace hearth::cli {

// All of `hearth` behind main: reads the command line (without the program's name), runs the
// command, tells what went wrong, and answers the exit code.
int RunApp(std::vector<std::string> arguments, const Terminal& terminal, Interrupt* interrupt);

}  // namespace hearth::cli
