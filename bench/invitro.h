// SPDX-License-Identifier: Apache-2.0
// `hearth-bench invitro`: the gRPC contract of invitro's load generator in front of one function.
#pragma once

#include <memory>
#include <string>

#include "invitro/faas.pb.h"
#include "vmm/base/status.h"

namespace hearth::bench {

struct InvitroOptions {
  std::string listen = "127.0.0.1:0";
  std::string socket = "/run/hearth/hearthd.sock";
  std::string function;  // tenants/{tenant}/functions/{function}
};

// What may be listened on, as gRPC wants it: "unix:PATH", or a port of a loopback address
// ("127.0.0.1:8080", "[::1]:0", "localhost:8080"; 0 lets the kernel choose). Others are
// INVALID_ARGUMENT: there is no identity on this side either.
absl::StatusOr<std::string> ParseListen(const std::string& listen);

// The payload that the function gets, and what its response means. INTERNAL when it is not a JSON
// object with durationInMicroSec and memoryUsageInKb, whole numbers of at most 32 bits.
std::string TracePayload(const faas::FaasRequest& request);
absl::StatusOr<faas::FaasReply> ParseTraceResponse(const std::string& payload);

// Serves until it is destroyed. Each Execute is one Invoke; the caller's deadline and cancellation
// go along. hearthd's own errors keep their codes; outcomes become FUNCTION_ERROR: UNKNOWN,
// TIMED_OUT: DEADLINE_EXCEEDED, OUT_OF_MEMORY: RESOURCE_EXHAUSTED, INSTANCE_LOST: UNAVAILABLE.
class InvitroServer {
 public:
  // UNAVAILABLE when it cannot listen there.
  static absl::StatusOr<std::unique_ptr<InvitroServer>> Start(const InvitroOptions& options);
  virtual ~InvitroServer() = default;
  // Where it listens, with the port that was chosen.
  virtual const std::string& address() const = 0;
};

}  // namespace hearth::bench
