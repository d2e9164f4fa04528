// SPDX-License-Identifier: Apache-2.0
// What goes into an invocation, and where its result goes.
#pragma once

#include <string>

#include "cli/commands.h"

namespace hearth::cli {

struct Payload {
  std::string bytes;
  std::string content_type;
};

// The file, stdin or text that the options name, and its type: as given, or by the file's ending,
// or application/json when it is JSON, text/plain when it is text. No payload at all is {} as JSON.
Payload ReadPayload(const InvokeOptions& options);
std::string GuessContentType(const std::string& file, const std::string& bytes);

// Whole or not at all: written beside `path` and renamed. Throws CliError.
void WriteFile(const std::string& path, const std::string& bytes);

}  // namespace hearth::cli
