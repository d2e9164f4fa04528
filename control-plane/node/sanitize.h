// SPDX-License-Identifier: Apache-2.0
// What the agent says is hostile: made fit here before it reaches a message of the public API.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "hearth/agent/v1/agent.pb.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// Bounded and sanitised copies.
hearth::v1::FunctionError SanitizeError(const agent::v1::FunctionError& error);
hearth::v1::GuestUsage SanitizeUsage(const agent::v1::ProcessUsage& usage);
// A media type, or "application/octet-stream" when it is none.
std::string SanitizeContentType(absl::string_view content_type);

}  // namespace hearth::control
