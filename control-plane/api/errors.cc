// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/errors.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/any.pb.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {
namespace {

constexpr char kPrefix[] = "type.googleapis.com/";

template <class Detail>
std::string UrlOf() {
  return absl::StrCat(kPrefix, Detail::descriptor()->full_name());
}

template <class Detail>
absl::Status With(absl::Status status, const Detail& detail) {
  status.SetPayload(UrlOf<Detail>(), absl::Cord(detail.SerializeAsString()));
  return status;
}

template <class Detail>
Detail Get(const absl::Status& status) {
  Detail detail;
  if (const auto payload = status.GetPayload(UrlOf<Detail>())) {
    detail.ParseFromString(std::string(*payload));
  }
  return detail;
}

google::rpc::ErrorInfo Info(absl::string_view reason,
                            const std::map<std::string, std::string>& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
  return info;
}

constexpr size_t kMaxTrailerBytes = 6 * 1024;  // Leaves 2 KiB to gRPC and to who is between.
constexpr size_t kMaxTrailerMessageBytes = 1024;
constexpr size_t kMaxDetailTextBytes = 256;  // Of a detail that must be cut.

// What it is on the wire: grpc-message percent-encoded, grpc-status-details-bin in base64.
size_t TrailerBytes(const google::rpc::Status& rpc) {
  size_t bytes = (rpc.ByteSizeLong() + 2) / 3 * 4;
  for (const char c : rpc.message()) bytes += c >= 0x20 && c < 0x7f && c != '%' ? 1 : 3;
  return bytes;
}

// Between characters of UTF-8.
void CutText(std::string* text, size_t most) {
  if (text->size() <= most) return;
  size_t end = most - 3;
  while (end > 0 && (static_cast<unsigned char>((*text)[end]) & 0xc0) == 0x80) --end;
  text->resize(end);
  text->append("...");
}

// Each Cut() makes a detail smaller; false: no further.
bool Cut(google::rpc::ErrorInfo* info) {
  for (auto& [key, value] : *info->mutable_metadata()) CutText(&value, kMaxDetailTextBytes);
  return false;
}
bool Cut(google::rpc::BadRequest* request) {
  for (auto& violation : *request->mutable_field_violations()) {
    CutText(violation.mutable_field(), kMaxDetailTextBytes);
    CutText(violation.mutable_description(), kMaxDetailTextBytes);
  }
  if (request->field_violations_size() <= 1) return false;
  request->mutable_field_violations()->RemoveLast();
  return true;
}
bool Cut(hearth::v1::FunctionError* error) {
  CutText(error->mutable_type(), kMaxDetailTextBytes);
  CutText(error->mutable_message(), kMaxDetailTextBytes);
  auto* frames = error->mutable_stack_trace();
  if (frames->empty()) return false;
  // One end is where it began, the other where it failed.
  frames->DeleteSubrange(frames->size() / 2, 1);
  return true;
}

// Makes `any`, if it holds a Detail, so small that its status fits, or as small as it can be.
template <class Detail>
void Shrink(const google::rpc::Status& rpc, google::protobuf::Any* any) {
  Detail detail;
  if (!any->UnpackTo(&detail)) return;
  for (bool more = true; more && TrailerBytes(rpc) > kMaxTrailerBytes;) {
    more = Cut(&detail);
    any->PackFrom(detail);
  }
}

}  // namespace

absl::Status ApiError(absl::StatusCode code, absl::string_view reason, absl::string_view message,
                      const std::map<std::string, std::string>& metadata) {
  return With(absl::Status(code, message), Info(reason, metadata));
}

absl::Status WithReason(const absl::Status& status, absl::string_view reason,
                        const std::map<std::string, std::string>& metadata) {
  if (status.ok() || !ReasonOf(status).empty()) return status;
  return With(status, Info(reason, metadata));
}

absl::Status WithRetry(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo retry;
  const int64_t ns = absl::ToInt64Nanoseconds(delay);
  retry.mutable_retry_delay()->set_seconds(ns / 1'000'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
  return With(std::move(status), retry);
}

absl::Status WithQuota(absl::Status status, absl::string_view subject,
                       absl::string_view description) {
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject(std::string(subject));
  violation->set_description(std::string(description));
  return With(std::move(status), quota);
}

absl::Status NotFound(absl::string_view name) {
  return ApiError(absl::StatusCode::kNotFound, "RESOURCE_NOT_FOUND",
                  absl::StrCat(name, " does not exist"), {{"resource", std::string(name)}});
}

absl::Status InvalidField(absl::string_view field, absl::string_view description) {
  FieldViolations violations;
  violations.Add(field, description);
  return violations.ToStatus();
}

void FieldViolations::Add(absl::string_view field, absl::string_view description) {
  violations_.emplace_back(field, description);
}

void FieldViolations::Add(const absl::Status& status) {
  if (status.ok()) return;
  const auto request = Get<google::rpc::BadRequest>(status);
  for (const auto& violation : request.field_violations()) {
    Add(violation.field(), violation.description());
  }
  if (request.field_violations().empty() && other_.ok()) other_ = status;
}

absl::Status FieldViolations::ToStatus() const {
  if (!other_.ok()) return other_;
  if (violations_.empty()) return absl::OkStatus();
  google::rpc::BadRequest request;
  std::string message;
  for (const auto& [field, description] : violations_) {
    auto* violation = request.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
    absl::StrAppend(&message, message.empty() ? "" : "; ", field, ": ", description);
  }
  return With(ApiError(absl::StatusCode::kInvalidArgument, "INVALID_FIELD", message,
                       {{"field", violations_[0].first}}),
              request);
}

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int>(status.code()));
  if (status.ok()) return rpc;
  rpc.set_message(std::string(status.message()));
  // A status without a reason is one that the layers below made; its code's name serves.
  const absl::Status whole = WithReason(status, absl::StatusCodeToString(status.code()));
  // The ErrorInfo first: clients that look at one detail only look there.
  const std::string info_url = UrlOf<google::rpc::ErrorInfo>();
  const auto add = [&rpc](absl::string_view url, const absl::Cord& payload) {
    auto* detail = rpc.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  };
  add(info_url, *whole.GetPayload(info_url));
  whole.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    if (url != info_url && absl::StartsWith(url, kPrefix)) add(url, payload);
  });
  return rpc;
}

google::rpc::Status ToTrailers(const absl::Status& status) {
  const google::rpc::Status whole = ToRpcStatus(status);
  if (TrailerBytes(whole) <= kMaxTrailerBytes) return whole;
  google::rpc::Status rpc = whole;
  CutText(rpc.mutable_message(), kMaxTrailerMessageBytes);
  // The ErrorInfo stays first; then as many as find room, the small ones before those to be cut.
  std::vector<google::protobuf::Any> details(whole.details().begin(), whole.details().end());
  std::stable_sort(details.begin() + 1, details.end(), [](const auto& a, const auto& b) {
    return a.value().size() < b.value().size();
  });
  rpc.clear_details();
  for (const google::protobuf::Any& detail : details) {
    google::protobuf::Any* added = rpc.add_details();
    *added = detail;
    Shrink<google::rpc::ErrorInfo>(rpc, added);
    Shrink<google::rpc::BadRequest>(rpc, added);
    Shrink<hearth::v1::FunctionError>(rpc, added);
    if (TrailerBytes(rpc) > kMaxTrailerBytes) rpc.mutable_details()->RemoveLast();
  }
  return rpc;
}

std::string ReasonOf(const absl::Status& status) {
  return Get<google::rpc::ErrorInfo>(status).reason();
}

}  // namespace hearth::control
