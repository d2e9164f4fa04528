// SPDX-License-Identifier: Apache-2.0
// What an invocation is said to have come to, from what was seen of it.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "control-plane/backend/machine_backend.h"
#include "control-plane/node/agent_session.h"
#include "control-plane/node/sanitize.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

struct Verdict {
  absl::Status not_started;  // Not OK: an RPC error, user code did not start.
  hearth::v1::Outcome outcome = hearth::v1::OUTCOME_UNSPECIFIED;
  std::optional<hearth::v1::FunctionError> error;
  std::optional<hearth::v1::GuestUsage> usage;
  std::string content_type;
  bool reusable = false;  // The instance may serve again.
};

struct InvocationEnd {
  SessionResult session;
  bool expired = false;  // hearthd ended the machine because the deadline had passed.
  absl::Duration timeout;
  UsageBounds bounds;
  std::optional<MachineExit> exit;
};

Verdict Judge(const InvocationEnd& end);

}  // namespace hearth::control
