// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/names.h"

#include <vector>

#include "absl/strings/str_split.h"

namespace hearth::control {

VersionName ParseVersionName(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != 6 || parts[0] != "tenants" || parts[2] != "functions" ||
      parts[4] != "versions") {
    return {};
  }
  return {parts[1], parts[3], parts[5]};
}

std::string FunctionNameOf(absl::string_view version_name) {
  return std::string(version_name.substr(0, version_name.rfind("/versions/")));
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp proto;
  const int64_t seconds = absl::ToUnixSeconds(time);
  proto.set_seconds(seconds);
  proto.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return proto;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

}  // namespace hearth::control
