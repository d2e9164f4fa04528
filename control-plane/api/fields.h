// SPDX-License-Identifier: Apache-2.0
// What the methods share: field masks, page tokens, etags, replays by request_id, times.
#pragma once

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "control-plane/api/errors.h"
#include "control-plane/store/metadata_store.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/map.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"

namespace hearth::control {

google::protobuf::Timestamp ToTimestamp(absl::Time time);
google::protobuf::Duration ToDuration(absl::Duration duration);
absl::Duration FromDuration(const google::protobuf::Duration& duration);
// The time, or `absent` when the field is not set. INVALID_ARGUMENT when it is out of range.
absl::StatusOr<absl::Time> FromTimestamp(const google::protobuf::Timestamp& timestamp,
                                         absl::string_view field);

// Copies the fields that `mask` names from `patch` to `target`: an absent mask means every field of
// `patch` that is set, "*" every field in `allowed`. Fields not in `allowed` cannot be updated.
absl::Status ApplyMask(const google::protobuf::Message& patch,
                       const google::protobuf::FieldMask& mask,
                       const std::set<std::string>& allowed, google::protobuf::Message* target);

// A page of a list, as asked for. `scope` is what the list is of: a token is good for it alone.
struct Page {
  int size = 0;
  std::string after;  // The sort key behind which the page begins; empty at the first.
};
absl::StatusOr<Page> ParsePage(int32_t page_size, const std::string& page_token,
                               const std::string& scope);
std::string MakePageToken(const std::string& scope, const std::string& last_sort_key);

// The etag of a resource whose own etag field is empty.
std::string EtagOf(const google::protobuf::Message& resource);
// ABORTED unless `sent` is empty or equal to `current`.
absl::Status CheckEtag(const std::string& sent, const std::string& current,
                       const std::string& name);

absl::Status CheckLabels(const google::protobuf::Map<std::string, std::string>& labels,
                         absl::string_view field);

// Of the deterministic encoding.
std::string DigestOfMessage(const google::protobuf::Message& message);

// The answer given before to a request with this request_id, if any, else what `body` answers,
// which is then kept. The same id with another request is INVALID_ARGUMENT.
template <class Request, class Response, class Body>
absl::Status Replayed(MetadataTransaction& transaction, absl::string_view method,
                      const Request& request, Response* response, Body body);

// Not a template's business.
absl::StatusOr<absl::optional<std::string>> FindAnswer(MetadataTransaction& transaction,
                                                       absl::string_view method,
                                                       const std::string& request_id,
                                                       const google::protobuf::Message& request);
absl::Status KeepAnswer(MetadataTransaction& transaction, absl::string_view method,
                        const std::string& request_id, const google::protobuf::Message& request,
                        const google::protobuf::Message& response);

template <class Request, class Response, class Body>
absl::Status Replayed(MetadataTransaction& transaction, absl::string_view method,
                      const Request& request, Response* response, Body body) {
  auto answer = FindAnswer(transaction, method, request.request_id(), request);
  if (!answer.ok()) return answer.status();
  if (answer->has_value()) {
    response->ParseFromString(**answer);
    return absl::OkStatus();
  }
  absl::Status status = body();
  if (!status.ok()) return status;
  return KeepAnswer(transaction, method, request.request_id(), request, *response);
}

}  // namespace hearth::control
