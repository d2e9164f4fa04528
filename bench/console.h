// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::bench {

struct ConsolePipe {
  UniqueFd reader;
  UniqueFd writer;  // The machine's end.
};
absl::StatusOr<ConsolePipe> MakeConsolePipe();

// Reads until `text` was there; an empty text: until the first byte. `who` is named in errors.
absl::Status AwaitText(int fd, const std::string& text, const char* who);

}  // namespace hearth::bench
