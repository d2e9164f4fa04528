// SPDX-License-Identifier: Apache-2.0
// The durable queue of asynchronous invocations. Nothing puts any in yet: the interface and its
// conformance suite are here so that what keeps it can be chosen apart from what uses it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace hearth::control {

struct QueuedInvocation {
  std::string id;  // UUIDv7, the invocation's.
  std::string function;
  std::string body;  // The request, serialised.
  absl::Time not_before;
};

// Holds until `lease_end`. Each claim of an item has a higher epoch; an action under an older epoch
// is refused, so a worker that was thought dead does no harm.
struct QueueClaim {
  QueuedInvocation item;
  std::string owner;
  int64_t epoch = 0;  // From 1 up: also the number of the attempt.
};

struct DeadLetter {
  QueuedInvocation item;
  std::string reason;
};

// Thread-safe; durable when it answers OK. Actions on a claim that was lost are ABORTED.
class InvocationQueue {
 public:
  virtual ~InvocationQueue() = default;
  virtual absl::Status Enqueue(const QueuedInvocation& item) = 0;  // ALREADY_EXISTS
  // The oldest that are due and not under a lease, at most `limit`.
  virtual absl::StatusOr<std::vector<QueueClaim>> Claim(const std::string& owner, absl::Time now,
                                                        absl::Time lease_end, int limit) = 0;
  virtual absl::Status Extend(const QueueClaim& claim, absl::Time lease_end) = 0;
  virtual absl::Status Complete(const QueueClaim& claim) = 0;
  // Gives it back, to be claimed again from `not_before` on.
  virtual absl::Status Release(const QueueClaim& claim, absl::Time not_before) = 0;
  virtual absl::Status Bury(const QueueClaim& claim, const std::string& reason) = 0;
  virtual absl::StatusOr<std::vector<DeadLetter>> DeadLetters(const std::string& function,
                                                              int limit) = 0;
  virtual absl::StatusOr<int64_t> Depth() = 0;  // Items not completed nor buried.
};

}  // namespace hearth::control
