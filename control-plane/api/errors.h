// SPDX-License-Identifier: Apache-2.0
// Errors of the public API: a status with google.rpc details as payloads. docs/api.md lists the
// reasons.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace hearth::control {

inline constexpr char kErrorDomain[] = "hearth.dev";

// With an ErrorInfo. `message` says what is wrong and what to do.
absl::Status ApiError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                      const std::map<std::string, std::string>& metadata = {});

// Gives `status` an ErrorInfo unless it has one; keeps code, message and other details.
absl::Status WithReason(const absl::Status& status, absl::string_view reason,
                        const std::map<std::string, std::string>& metadata = {});
absl::Status WithRetry(absl::Status status, absl::Duration delay);
absl::Status WithQuota(absl::Status status, absl::string_view subject,
                       absl::string_view description);

// NOT_FOUND, RESOURCE_NOT_FOUND, with the resource's name.
absl::Status NotFound(absl::string_view name);
// INVALID_ARGUMENT, INVALID_FIELD, with one violation.
absl::Status InvalidField(absl::string_view field, absl::string_view description);

// What is wrong with a request's fields, all of it at once.
class FieldViolations {
 public:
  void Add(absl::string_view field, absl::string_view description);
  // Takes over an InvalidField's violation; any other error stays the answer.
  void Add(const absl::Status& status);
  absl::Status ToStatus() const;  // OK when there are none.

 private:
  std::vector<std::pair<std::string, std::string>> violations_;
  absl::Status other_;
};

// As it goes on the wire: every payload a detail, and an ErrorInfo always.
google::rpc::Status ToRpcStatus(const absl::Status& status);
// The same for an RPC's trailers, of which clients take 8 KiB in all and else tell
// RESOURCE_EXHAUSTED instead. Texts, stack traces and violations are cut where need be; code and
// ErrorInfo stay.
google::rpc::Status ToTrailers(const absl::Status& status);

// The ErrorInfo's reason; empty without one.
std::string ReasonOf(const absl::Status& status);

}  // namespace hearth::control
