// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "control-plane/node/agent_session.h"

namespace hearth::control {

// The invocation under way. Guarded by the session's lock.
struct AgentSession::Active {
  uint64_t call_id = 0;
  uint64_t call_offset = 0;  // Where the call begins in all that the session sends.
  uint32_t request_stream = 0;
  uint32_t response_stream = 0;
  bool request_open = false;
  absl::string_view unsent;  // What of the payload the multiplexer did not take yet.
  std::string response;      // Received, not passed on yet: at most the stream's credit.
  bool client_left = false;
  bool cancel_sent = false;
  absl::Time cancel_deadline = absl::InfiniteFuture();
  uint64_t max_response_bytes = 0;
  absl::Duration cancel_grace;
  std::string invocation_id;
  SessionResult result;
};

}  // namespace hearth::control
