// SPDX-License-Identifier: Apache-2.0
// Versions and aliases.
#include "absl/time/clock.h"
#include "control-plane/api/catalog.h"
#include "control-plane/api/records.h"

namespace hearth::control {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

namespace {

// Keeps Function.live_version in step with the alias `live`.
absl::Status TellFunction(MetadataTransaction& t, const std::string& alias,
                          const std::string& version) {
  if (IdOf(alias) != "live") return absl::OkStatus();
  ASSIGN_OR_RETURN(auto function, Load<Function>(t, Kind::kFunction, ParentOf(alias)));
  function.set_live_version(version);
  Touch(&function, absl::Now());
  return t.Update(Kind::kFunction, RecordOf(Kind::kFunction, function));
}

// An alias may name a READY version of its own function.
absl::Status CheckTarget(MetadataTransaction& t, const std::string& alias,
                         const std::string& target) {
  RETURN_IF_ERROR(ParseName(kVersionPattern, target, "alias.version").status());
  if (ParentOf(target) != ParentOf(alias)) {
    return InvalidField("alias.version", "must be a version of the same function");
  }
  ASSIGN_OR_RETURN(const auto version, Load<Version>(t, Kind::kVersion, target));
  if (version.state() == Version::READY) return absl::OkStatus();
  return ApiError(absl::StatusCode::kFailedPrecondition, "VERSION_NOT_READY",
                  absl::StrCat(target, " is ", Version::State_Name(version.state()),
                               "; an alias can only name a READY version"),
                  {{"version", target}});
}

}  // namespace

Catalog::Answer<Version> Catalog::GetVersion(const GetVersionRequest& request) {
  RETURN_IF_ERROR(ParseName(kVersionPattern, request.name(), "name").status());
  Version version;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(version, Load<Version>(t, Kind::kVersion, request.name()));
    return absl::OkStatus();
  }));
  HideSecrets(&version);
  version.set_snapshot(parts_.node->SnapshotOf(version.name()));
  return version;
}

Catalog::Answer<ListVersionsResponse> Catalog::ListVersions(const ListVersionsRequest& request) {
  RETURN_IF_ERROR(ParseName(kFunctionPattern, request.parent(), "parent").status());
  ListVersionsResponse response;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(Load<Function>(t, Kind::kFunction, request.parent()).status());
    return ListPage(t, Kind::kVersion, request.parent(), request.page_size(), request.page_token(),
                    true, response.mutable_versions(), response.mutable_next_page_token());
  }));
  for (Version& version : *response.mutable_versions()) {
    HideSecrets(&version);
    version.set_snapshot(parts_.node->SnapshotOf(version.name()));
  }
  return response;
}

Catalog::Answer<Catalog::Empty> Catalog::DeleteVersion(const DeleteVersionRequest& request) {
  const std::string& name = request.name();
  RETURN_IF_ERROR(ParseName(kVersionPattern, name, "name").status());
  Empty empty;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "DeleteVersion", request, &empty, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto version, Load<Version>(t, Kind::kVersion, name));
      if (version.state() == Version::CREATING) {
        return ApiError(absl::StatusCode::kFailedPrecondition, "VERSION_CREATING",
                        absl::StrCat(name, " is being made; cancel its operation first"),
                        {{"version", name}});
      }
      const absl::Status status = t.Erase(Kind::kVersion, name);
      if (absl::IsFailedPrecondition(status)) {
        return ApiError(absl::StatusCode::kFailedPrecondition, "VERSION_IN_USE",
                        absl::StrCat("an alias names ", name, "; move the alias first"),
                        {{"version", name}});
      }
      RETURN_IF_ERROR(status);
      ASSIGN_OR_RETURN(auto function, Load<Function>(t, Kind::kFunction, ParentOf(name)));
      if (function.latest_version() != name) return absl::OkStatus();
      ASSIGN_OR_RETURN(const auto newest, t.List(Kind::kVersion, function.name(), "", 1, true));
      function.set_latest_version(newest.empty() ? "" : newest[0].name);
      Touch(&function, absl::Now());
      return t.Update(Kind::kFunction, RecordOf(Kind::kFunction, function));
    });
  }));
  parts_.router->Invalidate(ParentOf(name));
  Retire(name);
  parts_.garbage->Wake();
  return empty;
}

void Catalog::Retire(const std::string& version) {
  parts_.operations->CancelBelow(version);
  parts_.node->Retire(version);
}

Catalog::Answer<Alias> Catalog::CreateAlias(const CreateAliasRequest& request) {
  FieldViolations violations;
  violations.Add(ParseName(kFunctionPattern, request.parent(), "parent").status());
  violations.Add(CheckId(request.alias_id(), "alias_id"));
  RETURN_IF_ERROR(violations.ToStatus());
  Alias alias;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "CreateAlias", request, &alias, [&]() -> absl::Status {
      RETURN_IF_ERROR(Load<Function>(t, Kind::kFunction, request.parent()).status());
      const absl::Time now = absl::Now();
      alias.set_name(absl::StrCat(request.parent(), "/aliases/", request.alias_id()));
      alias.set_uid(parts_.uuids->Next());
      alias.set_version(request.alias().version());
      *alias.mutable_create_time() = ToTimestamp(now);
      RETURN_IF_ERROR(CheckTarget(t, alias.name(), alias.version()));
      Touch(&alias, now);
      const absl::Status status =
          t.Insert(Kind::kAlias, RecordOf(Kind::kAlias, alias, alias.version()));
      if (absl::IsAlreadyExists(status)) {
        return ApiError(absl::StatusCode::kAlreadyExists, "RESOURCE_EXISTS",
                        absl::StrCat(alias.name(), " exists already; update it"),
                        {{"resource", alias.name()}});
      }
      RETURN_IF_ERROR(status);
      return TellFunction(t, alias.name(), alias.version());
    });
  }));
  parts_.router->Invalidate(request.parent());
  return alias;
}

Catalog::Answer<Alias> Catalog::GetAlias(const GetAliasRequest& request) {
  RETURN_IF_ERROR(ParseName(kAliasPattern, request.name(), "name").status());
  Alias alias;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(alias, Load<Alias>(t, Kind::kAlias, request.name()));
    return absl::OkStatus();
  }));
  return alias;
}

Catalog::Answer<ListAliasesResponse> Catalog::ListAliases(const ListAliasesRequest& request) {
  RETURN_IF_ERROR(ParseName(kFunctionPattern, request.parent(), "parent").status());
  ListAliasesResponse response;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(Load<Function>(t, Kind::kFunction, request.parent()).status());
    return ListPage(t, Kind::kAlias, request.parent(), request.page_size(), request.page_token(),
                    false, response.mutable_aliases(), response.mutable_next_page_token());
  }));
  return response;
}

Catalog::Answer<Alias> Catalog::UpdateAlias(const UpdateAliasRequest& request) {
  RETURN_IF_ERROR(ParseName(kAliasPattern, request.alias().name(), "alias.name").status());
  Alias alias;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "UpdateAlias", request, &alias, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(alias, Load<Alias>(t, Kind::kAlias, request.alias().name()));
      RETURN_IF_ERROR(CheckEtag(request.alias().etag(), alias.etag(), alias.name()));
      RETURN_IF_ERROR(ApplyMask(request.alias(), request.update_mask(), {"version"}, &alias));
      RETURN_IF_ERROR(CheckTarget(t, alias.name(), alias.version()));
      Touch(&alias, absl::Now());
      RETURN_IF_ERROR(t.Update(Kind::kAlias, RecordOf(Kind::kAlias, alias, alias.version())));
      return TellFunction(t, alias.name(), alias.version());
    });
  }));
  parts_.router->Invalidate(ParentOf(alias.name()));
  return alias;
}

Catalog::Answer<Catalog::Empty> Catalog::DeleteAlias(const DeleteAliasRequest& request) {
  RETURN_IF_ERROR(ParseName(kAliasPattern, request.name(), "name").status());
  Empty empty;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "DeleteAlias", request, &empty, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto alias, Load<Alias>(t, Kind::kAlias, request.name()));
      RETURN_IF_ERROR(CheckEtag(request.etag(), alias.etag(), alias.name()));
      RETURN_IF_ERROR(t.Erase(Kind::kAlias, alias.name()));
      return TellFunction(t, alias.name(), "");
    });
  }));
  parts_.router->Invalidate(ParentOf(request.name()));
  return empty;
}

}  // namespace hearth::control
