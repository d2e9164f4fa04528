// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bench/command.h"

namespace hearth::bench {

// The ways in for others' benchmark suites; each adds one subcommand.
void AddInvitro(CLI::App* app, Commands* commands);
void AddBurst(CLI::App* app, Commands* commands);

}  // namespace hearth::bench
