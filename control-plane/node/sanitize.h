// SPDX-License-Identifier: Apache-2.0
// What the agent says is hostile: made fit here before it reaches a message of the public API.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "hearth/agent/v1/agent.pb.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// The most that a guest can have used in an invocation, as the host knows it.
struct UsageBounds {
  absl::Duration wall;
  uint64_t memory_mib = 0;
};

// Bounded and sanitised copies.
hearth::v1::FunctionError SanitizeError(const agent::v1::FunctionError& error);
hearth::v1::GuestUsage SanitizeUsage(const agent::v1::ProcessUsage& usage,
                                     const UsageBounds& bounds);
// A media type, or "application/octet-stream" when it is none.
std::string SanitizeContentType(absl::string_view content_type);

}  // namespace hearth::control
