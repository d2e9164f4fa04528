// SPDX-License-Identifier: Apache-2.0
// What the API only reads: invocations, usage, instances, runtimes.
#pragma once

#include "absl/status/statusor.h"
#include "control-plane/api/catalog.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/node.h"
#include "control-plane/store/ledger.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// Thread-safe.
class Queries {
 public:
  // All outlive it.
  Queries(Catalog* catalog, Ledger* ledger, Node* node, const ImageStore* images)
      : catalog_(catalog), ledger_(ledger), node_(node), images_(images) {}

  absl::StatusOr<hearth::v1::Invocation> GetInvocation(
      const hearth::v1::GetInvocationRequest& request);
  absl::StatusOr<hearth::v1::ListInvocationsResponse> ListInvocations(
      const hearth::v1::ListInvocationsRequest& request);
  absl::StatusOr<hearth::v1::QueryUsageResponse> QueryUsage(
      const hearth::v1::QueryUsageRequest& request);
  absl::StatusOr<hearth::v1::ListInstancesResponse> ListInstances(
      const hearth::v1::ListInstancesRequest& request);
  absl::StatusOr<hearth::v1::ListRuntimesResponse> ListRuntimes(
      const hearth::v1::ListRuntimesRequest& request);

 private:
  Catalog* const catalog_;
  Ledger* const ledger_;
  Node* const node_;
  const ImageStore* const images_;
};

}  // namespace hearth::control
