// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/slow_replays.h"

#include "absl/strings/str_cat.h"
#include "control-plane/api/fields.h"
#include "vmm/base/status.h"

namespace hearth::control {

using google::protobuf::Message;

absl::Status SlowReplays::Once(absl::string_view method, const std::string& request_id,
                               const Message& request, Message* response,
                               absl::FunctionRef<absl::Status()> body) {
  if (request_id.empty()) return body();
  const std::string key = absl::StrCat(method, "/", request_id);
  {
    absl::MutexLock lock(&mutex_);
    const auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return under_way_.count(key) == 0;
    };
    mutex_.Await(absl::Condition(&free));
    under_way_.insert(key);
  }
  const absl::Status status = Run(method, request_id, request, response, body);
  absl::MutexLock lock(&mutex_);
  under_way_.erase(key);
  return status;
}

absl::Status SlowReplays::Run(absl::string_view method, const std::string& request_id,
                              const Message& request, Message* response,
                              absl::FunctionRef<absl::Status()> body) {
  absl::optional<std::string> known;
  RETURN_IF_ERROR(metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(known, FindAnswer(t, method, request_id, request));
    return absl::OkStatus();
  }));
  if (known.has_value()) {
    response->ParseFromString(*known);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(body());
  return metadata_->Write([&](MetadataTransaction& t) {
    return KeepAnswer(t, method, request_id, request, *response);
  });
}

}  // namespace hearth::control
