// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <spdlog/formatter.h>

#include <memory>

namespace hearth::control {

// One line for each message, with the time and the level. What a message quotes may be a guest's:
// its control characters are written as escapes, so that it cannot begin a line of its own.
std::unique_ptr<spdlog::formatter> MakeLogFormatter();

}  // namespace hearth::control
