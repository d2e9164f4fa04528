// SPDX-License-Identifier: Apache-2.0
// The options that the subcommands cold-start and backends have in common.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/cold_start.h"
#include "bench/command.h"

namespace hearth::bench {

struct StartsCommand {
  ColdStartOptions options;  // Without functions and modes until ParseStarts().
  std::vector<std::string> functions;
  std::string modes;
  std::string payload_file;
  std::string content_type;
};

// `modes` are the default.
void AddStarts(CLI::App* app, const char* modes, StartsCommand* command);
// Reads the payloads. INVALID_ARGUMENT for a mode that there is not.
absl::Status ParseStarts(StartsCommand* command);

}  // namespace hearth::bench
