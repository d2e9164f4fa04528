// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace hearth::wire {

// A hostile peer's text, made fit to be passed on: at most `max_bytes` of it as valid UTF-8. What
// is not becomes U+FFFD, control characters but tab and newline too; cut between characters.
std::string SanitizeText(absl::string_view text, size_t max_bytes);

}  // namespace hearth::wire
