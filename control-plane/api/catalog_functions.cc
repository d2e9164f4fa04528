// SPDX-License-Identifier: Apache-2.0
// Tenants and functions.
#include <limits>

#include "absl/time/clock.h"
#include "control-plane/api/catalog.h"
#include "control-plane/api/records.h"
#include "control-plane/limits.h"

namespace hearth::control {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

namespace {

absl::Status CheckText(const std::string& text, size_t most, absl::string_view field) {
  if (text.size() <= most) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("at most ", most, " bytes"));
}

absl::Status CheckTenant(const Tenant& tenant) {
  FieldViolations violations;
  violations.Add(
      CheckText(tenant.display_name(), limits::kMaxDisplayNameBytes, "tenant.display_name"));
  violations.Add(CheckLabels(tenant.labels(), "tenant.labels"));
  return violations.ToStatus();
}

absl::Status CheckFunction(const Function& function) {
  FieldViolations violations;
  violations.Add(
      CheckText(function.description(), limits::kMaxDescriptionBytes, "function.description"));
  violations.Add(CheckLabels(function.labels(), "function.labels"));
  return violations.ToStatus();
}

constexpr int kAll = std::numeric_limits<int>::max();

absl::Status AlreadyExists(const std::string& name) {
  return ApiError(absl::StatusCode::kAlreadyExists, "RESOURCE_EXISTS",
                  absl::StrCat(name, " exists already"), {{"resource", name}});
}

template <class Resource>
absl::Status InsertNew(MetadataTransaction& t, Kind kind, const Resource& resource) {
  const absl::Status status = t.Insert(kind, RecordOf(kind, resource));
  if (absl::IsAlreadyExists(status)) return AlreadyExists(resource.name());
  if (absl::IsFailedPrecondition(status)) return NotFound(ParentOf(resource.name()));
  return status;
}

}  // namespace

absl::Status Catalog::Require(Kind kind, const std::string& name) {
  return parts_.metadata->Read([&](MetadataTransaction& t) {
    const absl::Status status = t.Get(kind, name).status();
    return absl::IsNotFound(status) ? NotFound(name) : status;
  });
}
absl::Status Catalog::RequireFunction(const std::string& name) {
  return Require(Kind::kFunction, name);
}
absl::Status Catalog::RequireTenant(const std::string& name) {
  return Require(Kind::kTenant, name);
}

absl::Status Catalog::MakeDefaultTenant() {
  bool none = false;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto first, t.List(Kind::kTenant, "", "", 1, false));
    none = first.empty();
    return absl::OkStatus();
  }));
  if (!none) return absl::OkStatus();
  CreateTenantRequest request;
  request.set_tenant_id(kDefaultTenant);
  return CreateTenant(request).status();
}

Catalog::Answer<Tenant> Catalog::CreateTenant(const CreateTenantRequest& request) {
  FieldViolations violations;
  violations.Add(CheckId(request.tenant_id(), "tenant_id"));
  violations.Add(CheckTenant(request.tenant()));
  RETURN_IF_ERROR(violations.ToStatus());
  Tenant tenant;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "CreateTenant", request, &tenant, [&] {
      const absl::Time now = absl::Now();
      tenant.set_name(absl::StrCat("tenants/", request.tenant_id()));
      tenant.set_uid(parts_.uuids->Next());
      tenant.set_display_name(request.tenant().display_name());
      *tenant.mutable_labels() = request.tenant().labels();
      *tenant.mutable_create_time() = ToTimestamp(now);
      Touch(&tenant, now);
      return InsertNew(t, Kind::kTenant, tenant);
    });
  }));
  return tenant;
}

Catalog::Answer<Tenant> Catalog::GetTenant(const GetTenantRequest& request) {
  RETURN_IF_ERROR(ParseName(kTenantPattern, request.name(), "name").status());
  Tenant tenant;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(tenant, Load<Tenant>(t, Kind::kTenant, request.name()));
    return absl::OkStatus();
  }));
  return tenant;
}

Catalog::Answer<ListTenantsResponse> Catalog::ListTenants(const ListTenantsRequest& request) {
  ListTenantsResponse response;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) {
    return ListPage(t, Kind::kTenant, "", request.page_size(), request.page_token(), false,
                    response.mutable_tenants(), response.mutable_next_page_token());
  }));
  return response;
}

Catalog::Answer<Tenant> Catalog::UpdateTenant(const UpdateTenantRequest& request) {
  RETURN_IF_ERROR(ParseName(kTenantPattern, request.tenant().name(), "tenant.name").status());
  Tenant tenant;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "UpdateTenant", request, &tenant, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(tenant, Load<Tenant>(t, Kind::kTenant, request.tenant().name()));
      RETURN_IF_ERROR(CheckEtag(request.tenant().etag(), tenant.etag(), tenant.name()));
      RETURN_IF_ERROR(
          ApplyMask(request.tenant(), request.update_mask(), {"display_name", "labels"}, &tenant));
      RETURN_IF_ERROR(CheckTenant(tenant));
      Touch(&tenant, absl::Now());
      return t.Update(Kind::kTenant, RecordOf(Kind::kTenant, tenant));
    });
  }));
  return tenant;
}

Catalog::Answer<Catalog::Empty> Catalog::DeleteTenant(const DeleteTenantRequest& request) {
  RETURN_IF_ERROR(ParseName(kTenantPattern, request.name(), "name").status());
  Empty empty;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "DeleteTenant", request, &empty, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto tenant, Load<Tenant>(t, Kind::kTenant, request.name()));
      RETURN_IF_ERROR(CheckEtag(request.etag(), tenant.etag(), tenant.name()));
      RETURN_IF_ERROR(t.EraseChildren(Kind::kOperation, tenant.name()));
      RETURN_IF_ERROR(t.EraseCalls(tenant.name()));
      const absl::Status status = t.Erase(Kind::kTenant, tenant.name());
      if (!absl::IsFailedPrecondition(status)) return status;
      return ApiError(absl::StatusCode::kFailedPrecondition, "TENANT_NOT_EMPTY",
                      absl::StrCat(tenant.name(), " still has functions; delete them first"),
                      {{"resource", tenant.name()}});
    });
  }));
  parts_.garbage->Wake();
  return empty;
}

Catalog::Answer<Function> Catalog::CreateFunction(const CreateFunctionRequest& request) {
  FieldViolations violations;
  violations.Add(ParseName(kTenantPattern, request.parent(), "parent").status());
  violations.Add(CheckId(request.function_id(), "function_id"));
  violations.Add(CheckFunction(request.function()));
  RETURN_IF_ERROR(violations.ToStatus());
  Function function;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "CreateFunction", request, &function, [&] {
      const absl::Time now = absl::Now();
      function.set_name(absl::StrCat(request.parent(), "/functions/", request.function_id()));
      function.set_uid(parts_.uuids->Next());
      function.set_description(request.function().description());
      *function.mutable_labels() = request.function().labels();
      *function.mutable_create_time() = ToTimestamp(now);
      Touch(&function, now);
      return InsertNew(t, Kind::kFunction, function);
    });
  }));
  return function;
}

Catalog::Answer<Function> Catalog::GetFunction(const GetFunctionRequest& request) {
  RETURN_IF_ERROR(ParseName(kFunctionPattern, request.name(), "name").status());
  Function function;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(function, Load<Function>(t, Kind::kFunction, request.name()));
    return absl::OkStatus();
  }));
  return function;
}

Catalog::Answer<ListFunctionsResponse> Catalog::ListFunctions(const ListFunctionsRequest& request) {
  RETURN_IF_ERROR(ParseName(kTenantPattern, request.parent(), "parent").status());
  ListFunctionsResponse response;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(Load<Tenant>(t, Kind::kTenant, request.parent()).status());
    return ListPage(t, Kind::kFunction, request.parent(), request.page_size(), request.page_token(),
                    false, response.mutable_functions(), response.mutable_next_page_token());
  }));
  return response;
}

Catalog::Answer<Function> Catalog::UpdateFunction(const UpdateFunctionRequest& request) {
  RETURN_IF_ERROR(ParseName(kFunctionPattern, request.function().name(), "function.name").status());
  Function function;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "UpdateFunction", request, &function, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(function, Load<Function>(t, Kind::kFunction, request.function().name()));
      RETURN_IF_ERROR(CheckEtag(request.function().etag(), function.etag(), function.name()));
      RETURN_IF_ERROR(ApplyMask(request.function(), request.update_mask(),
                                {"description", "labels"}, &function));
      RETURN_IF_ERROR(CheckFunction(function));
      Touch(&function, absl::Now());
      return t.Update(Kind::kFunction, RecordOf(Kind::kFunction, function));
    });
  }));
  return function;
}

Catalog::Answer<Catalog::Empty> Catalog::DeleteFunction(const DeleteFunctionRequest& request) {
  const std::string& name = request.name();
  RETURN_IF_ERROR(ParseName(kFunctionPattern, name, "name").status());
  Empty empty;
  bool is_new = false;
  std::vector<Record> versions;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "DeleteFunction", request, &empty, [&]() -> absl::Status {
      is_new = true;
      ASSIGN_OR_RETURN(const auto function, Load<Function>(t, Kind::kFunction, name));
      RETURN_IF_ERROR(CheckEtag(request.etag(), function.etag(), name));
      RETURN_IF_ERROR(t.EraseChildren(Kind::kAlias, name));
      ASSIGN_OR_RETURN(versions, t.List(Kind::kVersion, name, "", kAll, true));
      RETURN_IF_ERROR(t.EraseChildren(Kind::kVersion, name));
      RETURN_IF_ERROR(t.EraseCalls(name));
      return t.Erase(Kind::kFunction, name);
    });
  }));
  // A repeat must not touch a function that was made under the same name since.
  if (!is_new) return empty;
  // From here on nothing new begins; deploys under way are ended, invocations end by themselves, in
  // their time. By version, for a function of this name that is made meanwhile has others.
  parts_.router->Invalidate(name);
  for (const Record& version : versions) Retire(version.name);
  parts_.garbage->Wake();
  parts_.logs->Forget(name, versions.empty() ? "" : versions.front().name);
  return empty;
}

}  // namespace hearth::control
