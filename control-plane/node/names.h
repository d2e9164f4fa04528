// SPDX-License-Identifier: Apache-2.0
// Small conversions between the API's names and values and what the node needs.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace hearth::control {

// The parts of tenants/{tenant}/functions/{function}/versions/{number}; empty where it is not so.
struct VersionName {
  std::string tenant;
  std::string function;
  std::string number;
};
VersionName ParseVersionName(absl::string_view name);

// tenants/{t}/functions/{f} of a version's name.
std::string FunctionNameOf(absl::string_view version_name);

google::protobuf::Timestamp ToProto(absl::Time time);
google::protobuf::Duration ToProto(absl::Duration duration);

}  // namespace hearth::control
