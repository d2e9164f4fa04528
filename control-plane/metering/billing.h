// SPDX-License-Identifier: Apache-2.0
// What an invocation costs, and what its platform log lines say. Pure functions.
#pragma once

#include <string>

#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// Sets usage.billed, from what the host measured alone: timing.execution, usage.host.cpu_ns and
// usage.host.memory_mib. Every outcome is billed alike, for a guest can choose how it ends.
void Bill(hearth::v1::Invocation* invocation);

// Adds to a sum, which stops at the largest number there is: a record may be older than the bounds
// on what a guest may claim. memory_mib and peak_memory_bytes become maxima.
void AddUsage(const hearth::v1::Usage& usage, hearth::v1::Usage* sum);

// "START RequestId: ... Version: ..." and so on, as AWS Lambda writes them; tools know them.
std::string StartLine(const hearth::v1::Invocation& invocation);
std::string EndLine(const hearth::v1::Invocation& invocation);
std::string ReportLine(const hearth::v1::Invocation& invocation);

}  // namespace hearth::control
