// SPDX-License-Identifier: Apache-2.0
// Between resources and the metadata's records.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "control-plane/api/errors.h"
#include "control-plane/api/fields.h"
#include "control-plane/api/names.h"
#include "control-plane/store/metadata_store.h"
#include "hearth/v1/resources.pb.h"
#include "vmm/base/status.h"

namespace hearth::control {

// Versions are listed by number; all else by id.
inline std::string SortKeyOf(Kind kind, const std::string& name) {
  return kind == Kind::kVersion ? absl::StrFormat("%09s", IdOf(name)) : IdOf(name);
}

template <class Resource>
absl::StatusOr<Resource> Load(MetadataTransaction& transaction, Kind kind,
                              const std::string& name) {
  const auto record = transaction.Get(kind, name);
  if (absl::IsNotFound(record.status())) return NotFound(name);
  RETURN_IF_ERROR(record.status());
  Resource resource;
  if (!resource.ParseFromString(record->body)) {
    return absl::DataLossError(absl::StrCat("the record of ", name, " is damaged"));
  }
  return resource;
}

template <class Resource>
Record RecordOf(Kind kind, const Resource& resource, const std::string& reference = "") {
  return {resource.name(), ParentOf(resource.name()), SortKeyOf(kind, resource.name()), reference,
          resource.SerializeAsString()};
}

// With etag and update time anew.
template <class Resource>
void Touch(Resource* resource, absl::Time now) {
  *resource->mutable_update_time() = ToTimestamp(now);
  resource->clear_etag();
  resource->set_etag(EtagOf(*resource));
}

// What nobody is told of a version once it is made.
inline void HideSecrets(hearth::v1::Version* version) { version->mutable_spec()->clear_secrets(); }

// One page of the children of `parent`.
template <class Resource>
absl::Status ListPage(MetadataTransaction& transaction, Kind kind, const std::string& parent,
                      int32_t page_size, const std::string& page_token, bool descending,
                      google::protobuf::RepeatedPtrField<Resource>* resources,
                      std::string* next_page_token) {
  const std::string scope = absl::StrCat(static_cast<int>(kind), " ", parent);
  ASSIGN_OR_RETURN(const Page page, ParsePage(page_size, page_token, scope));
  ASSIGN_OR_RETURN(const auto records,
                   transaction.List(kind, parent, page.after, page.size + 1, descending));
  for (const Record& record : records) {
    if (resources->size() == page.size) {
      *next_page_token = MakePageToken(scope, records[page.size - 1].sort_key);
      break;
    }
    if (!resources->Add()->ParseFromString(record.body)) {
      return absl::DataLossError(absl::StrCat("the record of ", record.name, " is damaged"));
    }
  }
  return absl::OkStatus();
}

}  // namespace hearth::control
