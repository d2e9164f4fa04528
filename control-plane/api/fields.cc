// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/fields.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "control-plane/images/digest.h"
#include "control-plane/limits.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/status.h"

namespace hearth::control {

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  const int64_t seconds = absl::ToUnixSeconds(time);
  timestamp.set_seconds(seconds);
  timestamp.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return timestamp;
}

google::protobuf::Duration ToDuration(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

absl::Duration FromDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

absl::StatusOr<absl::Time> FromTimestamp(const google::protobuf::Timestamp& timestamp,
                                         absl::string_view field) {
  // The range that google.protobuf.Timestamp states: years 1 to 9999.
  if (timestamp.seconds() < -62135596800 || timestamp.seconds() > 253402300799 ||
      timestamp.nanos() < 0 || timestamp.nanos() > 999'999'999) {
    return InvalidField(field, "is no valid time");
  }
  return absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos());
}

absl::Status ApplyMask(const google::protobuf::Message& patch,
                       const google::protobuf::FieldMask& mask,
                       const std::set<std::string>& allowed, google::protobuf::Message* target) {
  const auto* descriptor = patch.GetDescriptor();
  const auto* reflection = patch.GetReflection();
  std::set<std::string> paths;
  for (const std::string& path : mask.paths()) {
    if (path == "*") {
      paths.insert(allowed.begin(), allowed.end());
    } else if (allowed.count(path) == 0) {
      return InvalidField("update_mask", absl::StrCat("'", path, "' cannot be updated; these can: ",
                                                      absl::StrJoin(allowed, ", ")));
    } else {
      paths.insert(path);
    }
  }
  if (mask.paths().empty()) {
    for (const std::string& path : allowed) {
      const auto* field = descriptor->FindFieldByName(path);
      const bool set = field->is_repeated() ? reflection->FieldSize(patch, field) > 0
                                            : reflection->HasField(patch, field);
      if (set) paths.insert(path);
    }
  }
  // Field by field through a copy that holds nothing else.
  std::unique_ptr<google::protobuf::Message> part(patch.New());
  part->CopyFrom(patch);
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (paths.count(field->name()) > 0) {
      target->GetReflection()->ClearField(target, field);
    } else {
      reflection->ClearField(part.get(), field);
    }
  }
  target->MergeFrom(*part);
  return absl::OkStatus();
}

namespace {

// A token is base64 of "check.key", where the check ties it to its list.
std::string CheckOf(const std::string& scope) { return DigestOf(scope).substr(7, 8); }

}  // namespace

absl::StatusOr<Page> ParsePage(int32_t page_size, const std::string& page_token,
                               const std::string& scope) {
  if (page_size < 0) return InvalidField("page_size", "must not be negative");
  Page page;
  page.size = page_size == 0 ? limits::kDefaultPageSize : std::min(page_size, limits::kMaxPageSize);
  if (page_token.empty()) return page;
  std::string text;
  const std::string prefix = absl::StrCat(CheckOf(scope), ".");
  if (page_token.size() > 1024 || !absl::WebSafeBase64Unescape(page_token, &text) ||
      text.compare(0, prefix.size(), prefix) != 0 || text.size() == prefix.size()) {
    return InvalidField("page_token", "is not a token that this list gave; begin without one");
  }
  page.after = text.substr(prefix.size());
  return page;
}

std::string MakePageToken(const std::string& scope, const std::string& last_sort_key) {
  return absl::WebSafeBase64Escape(absl::StrCat(CheckOf(scope), ".", last_sort_key));
}

std::string EtagOf(const google::protobuf::Message& resource) {
  return DigestOfMessage(resource).substr(7, 16);
}

absl::Status CheckEtag(const std::string& sent, const std::string& current,
                       const std::string& name) {
  if (sent.empty() || sent == current) return absl::OkStatus();
  return ApiError(absl::StatusCode::kAborted, "ETAG_MISMATCH",
                  absl::StrCat(name, " was changed by someone else; get it, and try again"),
                  {{"resource", name}, {"etag", current}});
}

absl::Status CheckLabels(const google::protobuf::Map<std::string, std::string>& labels,
                         absl::string_view field) {
  if (labels.size() > limits::kMaxLabels) {
    return InvalidField(field, absl::StrCat("at most ", limits::kMaxLabels, " labels"));
  }
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > limits::kMaxLabelBytes ||
        value.size() > limits::kMaxLabelBytes) {
      return InvalidField(field, absl::StrCat("keys must have 1 to ", limits::kMaxLabelBytes,
                                              " bytes, values at most as many"));
    }
  }
  return absl::OkStatus();
}

std::string DigestOfMessage(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return DigestOf(bytes);
}

absl::StatusOr<absl::optional<std::string>> FindAnswer(MetadataTransaction& transaction,
                                                       absl::string_view method,
                                                       const std::string& request_id,
                                                       const google::protobuf::Message& request) {
  if (request_id.empty()) return absl::optional<std::string>();
  if (!IsUuid(request_id)) {
    return InvalidField("request_id", "must be a UUID in lower-case hexadecimal");
  }
  ASSIGN_OR_RETURN(const auto replay,
                   transaction.FindReplay(absl::StrCat(method, "/", request_id)));
  if (!replay.has_value()) return absl::optional<std::string>();
  if (replay->request_digest != DigestOfMessage(request)) {
    return ApiError(absl::StatusCode::kInvalidArgument, "REQUEST_ID_REUSED",
                    "this request_id came before with another request; use a new one",
                    {{"request_id", request_id}});
  }
  return absl::optional<std::string>(replay->response);
}

absl::Status KeepAnswer(MetadataTransaction& transaction, absl::string_view method,
                        const std::string& request_id, const google::protobuf::Message& request,
                        const google::protobuf::Message& response) {
  if (request_id.empty()) return absl::OkStatus();
  const absl::Time now = absl::Now();
  RETURN_IF_ERROR(transaction.Expire(now));
  return transaction.PutReplay(absl::StrCat(method, "/", request_id),
                               {DigestOfMessage(request), response.SerializeAsString()},
                               now + limits::kReplayTime);
}

}  // namespace hearth::control
