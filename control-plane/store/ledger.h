// SPDX-License-Identifier: Apache-2.0
// The durable record of what ran, from which bills are made.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// Sums over invocations of one function.
struct UsageSum {
  std::string function;
  hearth::v1::Usage usage;  // guest.peak_memory_bytes and host.memory_mib are maxima, not sums.
  std::map<std::string, int64_t> outcomes;
  std::map<std::string, int64_t> start_kinds;
};

// Thread-safe.
class Ledger {
 public:
  virtual ~Ledger() = default;
  // Keeps an ended invocation, by its name; durable when it answers OK. Waits with others for one
  // sync. Again with the same name: OK, nothing added, the first stays.
  virtual absl::Status Append(const hearth::v1::Invocation& invocation) = 0;
  // Whether a record could be written now; cheap unless the last one could not.
  virtual absl::Status CheckWritable() = 0;
  virtual absl::StatusOr<hearth::v1::Invocation> Get(const std::string& name) = 0;  // NOT_FOUND
  // Newest first, at most `limit`, with an id below `before` (all when empty). `function` is a
  // function's name, or "tenants/{t}/functions/-" for all of the tenant's.
  virtual absl::StatusOr<std::vector<hearth::v1::Invocation>> List(const std::string& function,
                                                                   const std::string& before,
                                                                   int limit) = 0;
  // Invocations that ended in [start, end), by function, in name order. `function` as above.
  virtual absl::StatusOr<std::vector<UsageSum>> Sum(const std::string& function, absl::Time start,
                                                    absl::Time end) = 0;
};

}  // namespace hearth::control
