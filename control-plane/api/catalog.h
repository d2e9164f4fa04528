// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/statusor.h"
#include "control-plane/api/garbage_collector.h"
#include "control-plane/api/operations.h"
#include "control-plane/metering/log_hub.h"
#include "control-plane/node/node.h"
#include "control-plane/routing/router.h"
#include "control-plane/store/metadata_store.h"
#include "control-plane/store/uuid.h"
#include "google/protobuf/empty.pb.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

inline constexpr char kDefaultTenant[] = "default";

// Tenants, functions, versions and aliases, as docs/api.md says. Thread-safe.
class Catalog {
 public:
  // All outlive the catalog.
  struct Parts {
    MetadataStore* metadata;
    Node* node;
    Router* router;
    Operations* operations;
    LogHub* logs;
    UuidGenerator* uuids;
    GarbageCollector* garbage;
  };
  template <class T>
  using Answer = absl::StatusOr<T>;
  using Empty = google::protobuf::Empty;

  explicit Catalog(const Parts& parts) : parts_(parts) {}

  // Makes the tenant "default" when there is no tenant at all: at the first start.
  absl::Status MakeDefaultTenant();

  Answer<hearth::v1::Tenant> CreateTenant(const hearth::v1::CreateTenantRequest& request);
  Answer<hearth::v1::Tenant> GetTenant(const hearth::v1::GetTenantRequest& request);
  Answer<hearth::v1::ListTenantsResponse> ListTenants(
      const hearth::v1::ListTenantsRequest& request);
  Answer<hearth::v1::Tenant> UpdateTenant(const hearth::v1::UpdateTenantRequest& request);
  Answer<Empty> DeleteTenant(const hearth::v1::DeleteTenantRequest& request);

  Answer<hearth::v1::Function> CreateFunction(const hearth::v1::CreateFunctionRequest& request);
  Answer<hearth::v1::Function> GetFunction(const hearth::v1::GetFunctionRequest& request);
  Answer<hearth::v1::ListFunctionsResponse> ListFunctions(
      const hearth::v1::ListFunctionsRequest& request);
  Answer<hearth::v1::Function> UpdateFunction(const hearth::v1::UpdateFunctionRequest& request);
  Answer<Empty> DeleteFunction(const hearth::v1::DeleteFunctionRequest& request);

  Answer<hearth::v1::Version> GetVersion(const hearth::v1::GetVersionRequest& request);
  Answer<hearth::v1::ListVersionsResponse> ListVersions(
      const hearth::v1::ListVersionsRequest& request);
  Answer<Empty> DeleteVersion(const hearth::v1::DeleteVersionRequest& request);

  Answer<hearth::v1::Alias> CreateAlias(const hearth::v1::CreateAliasRequest& request);
  Answer<hearth::v1::Alias> GetAlias(const hearth::v1::GetAliasRequest& request);
  Answer<hearth::v1::ListAliasesResponse> ListAliases(
      const hearth::v1::ListAliasesRequest& request);
  Answer<hearth::v1::Alias> UpdateAlias(const hearth::v1::UpdateAliasRequest& request);
  Answer<Empty> DeleteAlias(const hearth::v1::DeleteAliasRequest& request);

  // NOT_FOUND, with the details that the API gives.
  absl::Status RequireFunction(const std::string& name);
  absl::Status RequireTenant(const std::string& name);

 private:
  absl::Status Require(Kind kind, const std::string& name);
  // Of a version that was deleted: ends its deploy or rebuild, and leaves the rest to the node.
  void Retire(const std::string& version);

  const Parts parts_;
};

}  // namespace hearth::control
