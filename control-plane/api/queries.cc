// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/queries.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "control-plane/api/fields.h"
#include "control-plane/api/names.h"
#include "control-plane/metering/billing.h"
#include "vmm/base/status.h"

namespace hearth::control {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

absl::StatusOr<Invocation> Queries::GetInvocation(const GetInvocationRequest& request) {
  RETURN_IF_ERROR(ParseName(kInvocationPattern, request.name(), "name").status());
  auto invocation = ledger_->Get(request.name());
  if (absl::IsNotFound(invocation.status())) return NotFound(request.name());
  return invocation;
}

absl::StatusOr<ListInvocationsResponse> Queries::ListInvocations(
    const ListInvocationsRequest& request) {
  ASSIGN_OR_RETURN(const auto parts,
                   ParseName(kFunctionPattern, request.parent(), "parent", /*wildcards=*/true));
  if (parts[0] == "-") return InvalidField("parent", "must name a tenant");
  const std::string scope = absl::StrCat("invocations ", request.parent());
  ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token(), scope));
  ASSIGN_OR_RETURN(auto invocations, ledger_->List(request.parent(), page.after, page.size + 1));
  ListInvocationsResponse response;
  for (Invocation& invocation : invocations) {
    if (response.invocations_size() == page.size) {
      response.set_next_page_token(
          MakePageToken(scope, IdOf(response.invocations(response.invocations_size() - 1).name())));
      break;
    }
    *response.add_invocations() = std::move(invocation);
  }
  return response;
}

absl::StatusOr<QueryUsageResponse> Queries::QueryUsage(const QueryUsageRequest& request) {
  std::string function = request.parent();
  if (absl::StrContains(function, "/functions/")) {
    RETURN_IF_ERROR(ParseName(kFunctionPattern, function, "parent", true).status());
    if (absl::StartsWith(function, "tenants/-/")) {
      return InvalidField("parent", "must name a tenant");
    }
  } else {
    RETURN_IF_ERROR(ParseName(kTenantPattern, function, "parent").status());
    function += "/functions/-";
  }
  absl::Time start = absl::UnixEpoch();
  absl::Time end = absl::FromUnixSeconds(253402300799);  // The last that a Timestamp can hold.
  if (request.has_start_time()) {
    ASSIGN_OR_RETURN(start, FromTimestamp(request.start_time(), "start_time"));
  }
  if (request.has_end_time()) {
    ASSIGN_OR_RETURN(end, FromTimestamp(request.end_time(), "end_time"));
  }
  if (end < start) return InvalidField("end_time", "must not be before start_time");
  ASSIGN_OR_RETURN(auto sums, ledger_->Sum(function, start, end));
  QueryUsageResponse response;
  response.mutable_total();
  for (UsageSum& sum : sums) {
    AddUsage(sum.usage, response.mutable_total());
    auto* row = response.add_rows();
    row->set_function(sum.function);
    *row->mutable_usage() = std::move(sum.usage);
    row->mutable_outcomes()->insert(sum.outcomes.begin(), sum.outcomes.end());
    row->mutable_start_kinds()->insert(sum.start_kinds.begin(), sum.start_kinds.end());
  }
  return response;
}

absl::StatusOr<ListInstancesResponse> Queries::ListInstances(const ListInstancesRequest& request) {
  ASSIGN_OR_RETURN(const auto parts,
                   ParseName(kFunctionPattern, request.parent(), "parent", /*wildcards=*/true));
  if (parts[0] != "-" && parts[1] != "-") {
    RETURN_IF_ERROR(catalog_->RequireFunction(request.parent()));
  } else if (parts[0] != "-") {
    RETURN_IF_ERROR(catalog_->RequireTenant(absl::StrCat("tenants/", parts[0])));
  }
  const std::string scope = absl::StrCat("instances ", request.parent());
  ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token(), scope));
  std::vector<Instance> instances = node_->ListInstances();
  std::sort(instances.begin(), instances.end(),
            [](const Instance& a, const Instance& b) { return a.name() < b.name(); });
  ListInstancesResponse response;
  for (Instance& instance : instances) {
    const auto own =
        ParseName("tenants/{tenant}/functions/{function}", ParentOf(instance.name()), "name");
    const bool wanted = own.ok() && (parts[0] == "-" || parts[0] == (*own)[0]) &&
                        (parts[1] == "-" || parts[1] == (*own)[1]);
    if (!wanted || instance.name() <= page.after) continue;
    if (response.instances_size() == page.size) {
      response.set_next_page_token(
          MakePageToken(scope, response.instances(response.instances_size() - 1).name()));
      break;
    }
    *response.add_instances() = std::move(instance);
  }
  return response;
}

absl::StatusOr<ListRuntimesResponse> Queries::ListRuntimes(const ListRuntimesRequest& request) {
  ASSIGN_OR_RETURN(const Page page,
                   ParsePage(request.page_size(), request.page_token(), "runtimes"));
  ListRuntimesResponse response;
  std::string last;
  const auto images = images_->current();
  for (const auto& [name, entry] : images->runtimes) {
    if (name <= page.after) continue;
    if (response.runtimes_size() == page.size) {
      response.set_next_page_token(MakePageToken("runtimes", last));
      break;
    }
    *response.add_runtimes() = entry.resource;
    last = name;
  }
  return response;
}

}  // namespace hearth::control
