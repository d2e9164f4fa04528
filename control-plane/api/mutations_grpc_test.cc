// SPDX-License-Identifier: Apache-2.0
// What docs/api.md says of all mutations, held against each: etags, masks, request_ids, uids.
#include <functional>

#include "control-plane/api/test_world.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.
using google::protobuf::Empty;

// Calls a unary method of a stub.
template <class Stub, class Request, class Response>
grpc::Status Call(const std::unique_ptr<Stub>& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  return ((*stub).*method)(&context, request, response);
}

Function GetFunction(World& world, const std::string& name) {
  GetFunctionRequest request;
  request.set_name(name);
  Function function;
  REQUIRE(Call(world.functions, &FunctionService::Stub::GetFunction, request, &function).ok());
  return function;
}

CreateAliasRequest AliasRequest(const std::string& function, const std::string& id) {
  CreateAliasRequest request;
  request.set_parent(function);
  request.set_alias_id(id);
  request.mutable_alias()->set_version(function + "/versions/1");
  return request;
}

}  // namespace

TEST_CASE("functions: updated by mask or by what is set, under an etag; the uid stays") {
  World world;
  const std::string f = world.MakeFunction("f");
  const Function made = GetFunction(world, f);
  const auto update = [&](UpdateFunctionRequest request, Function* function) {
    request.mutable_function()->set_name(f);
    return Call(world.functions, &FunctionService::Stub::UpdateFunction, request, function);
  };
  Function function;
  UpdateFunctionRequest both;
  both.mutable_function()->set_description("one");
  (*both.mutable_function()->mutable_labels())["team"] = "a";
  both.mutable_function()->set_etag(made.etag());
  REQUIRE(update(both, &function).ok());
  CHECK(function.description() == "one");
  CHECK(function.labels().at("team") == "a");
  CHECK(function.uid() == made.uid());
  CHECK(function.create_time().seconds() == made.create_time().seconds());
  CHECK(function.etag() != made.etag());
  const auto stale = update(both, &function);
  CHECK(stale.error_code() == grpc::StatusCode::ABORTED);
  CHECK(Reason(stale) == "ETAG_MISMATCH");

  UpdateFunctionRequest masked;
  masked.mutable_function()->set_description("two");
  masked.mutable_update_mask()->add_paths("labels");
  REQUIRE(update(masked, &function).ok());
  CHECK(function.description() == "one");
  CHECK(function.labels().empty());
  masked.mutable_update_mask()->set_paths(0, "uid");
  CHECK(Reason(update(masked, &function)) == "INVALID_FIELD");
  masked.mutable_update_mask()->set_paths(0, "*");
  masked.mutable_function()->clear_description();
  REQUIRE(update(masked, &function).ok());
  CHECK(function.description().empty());
  CHECK(GetFunction(world, f).etag() == function.etag());
  CHECK(GetFunction(world, f).uid() == made.uid());
}

TEST_CASE("etags: a deletion with an old one deletes nothing") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  CreateTenantRequest create;
  create.set_tenant_id("t");
  Tenant tenant;
  REQUIRE(Call(world.tenants, &TenantService::Stub::CreateTenant, create, &tenant).ok());
  Alias alias;
  REQUIRE(Call(world.functions, &FunctionService::Stub::CreateAlias, AliasRequest(f, "a"), &alias)
              .ok());
  Empty empty;
  const auto held = [&](const auto& stub, auto method, auto request, const std::string& etag) {
    request.set_etag("old");
    CHECK(Reason(Call(stub, method, request, &empty)) == "ETAG_MISMATCH");
    request.set_etag(etag);
    CHECK(Call(stub, method, request, &empty).ok());
    CHECK(Call(stub, method, request, &empty).error_code() == grpc::StatusCode::NOT_FOUND);
  };
  DeleteAliasRequest erase_alias;
  erase_alias.set_name(alias.name());
  held(world.functions, &FunctionService::Stub::DeleteAlias, erase_alias, alias.etag());
  DeleteFunctionRequest erase_function;
  erase_function.set_name(f);
  held(world.functions, &FunctionService::Stub::DeleteFunction, erase_function,
       GetFunction(world, f).etag());
  DeleteTenantRequest erase_tenant;
  erase_tenant.set_name(tenant.name());
  held(world.tenants, &TenantService::Stub::DeleteTenant, erase_tenant, tenant.etag());
}

TEST_CASE("request_ids: an update that comes twice is done once") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  const auto twice = [&](const auto& stub, auto method, auto request, auto resource) {
    // A repeat that was done again would meet the etag that it changed itself, or another time.
    request.set_request_id(world.state->uuids.Next());
    REQUIRE(Call(stub, method, request, &resource).ok());
    const std::string first = resource.SerializeAsString();
    REQUIRE(Call(stub, method, request, &resource).ok());
    CHECK(resource.SerializeAsString() == first);
  };
  UpdateFunctionRequest function;
  function.mutable_function()->set_name(f);
  function.mutable_function()->set_description("new");
  function.mutable_function()->set_etag(GetFunction(world, f).etag());
  twice(world.functions, &FunctionService::Stub::UpdateFunction, function, Function());
  UpdateTenantRequest tenant;
  tenant.mutable_tenant()->set_name(kTenant);
  tenant.mutable_tenant()->set_display_name("new");
  twice(world.tenants, &TenantService::Stub::UpdateTenant, tenant, Tenant());
  twice(world.functions, &FunctionService::Stub::CreateAlias, AliasRequest(f, "a"), Alias());
  UpdateAliasRequest alias;
  alias.mutable_alias()->set_name(f + "/aliases/a");
  alias.mutable_alias()->set_version(f + "/versions/1");
  twice(world.functions, &FunctionService::Stub::UpdateAlias, alias, Alias());
  CreateTenantRequest create;
  create.set_tenant_id("t");
  twice(world.tenants, &TenantService::Stub::CreateTenant, create, Tenant());
}

TEST_CASE("request_ids: a deletion that comes twice spares what was made again between") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  world.Deploy(f, "echo.handler");
  Empty empty;
  const auto twice = [&](const auto& stub, auto method, auto request,
                         const std::function<void()>& make_again) {
    request.set_request_id(world.state->uuids.Next());
    REQUIRE(Call(stub, method, request, &empty).ok());
    make_again();
    CHECK(Call(stub, method, request, &empty).ok());
  };
  const auto make_alias = [&] {
    Alias alias;
    CHECK(Call(world.functions, &FunctionService::Stub::CreateAlias, AliasRequest(f, "a"), &alias)
              .ok());
  };
  make_alias();
  DeleteAliasRequest alias;
  alias.set_name(f + "/aliases/a");
  twice(world.functions, &FunctionService::Stub::DeleteAlias, alias, make_alias);
  InvokeResponse response;
  CHECK(world.Invoke(alias.name(), "x", &response).ok());
  CHECK(Call(world.functions, &FunctionService::Stub::DeleteAlias, alias, &empty).ok());
  DeleteVersionRequest version;
  version.set_name(f + "/versions/1");
  twice(world.functions, &FunctionService::Stub::DeleteVersion, version, [] {});
  DeleteFunctionRequest function;
  function.set_name(f);
  twice(world.functions, &FunctionService::Stub::DeleteFunction, function, [&] {
    world.MakeFunction("f");
    world.Deploy(f, "echo.handler");
  });
  CHECK(world.Invoke(f, "x", &response).ok());
  CHECK(world.node->ListInstances().size() == 1);
  CHECK(world.node->ListSnapshots().size() == 1);
  const auto make_tenant = [&] {
    CreateTenantRequest create;
    create.set_tenant_id("t");
    Tenant made;
    CHECK(Call(world.tenants, &TenantService::Stub::CreateTenant, create, &made).ok());
  };
  make_tenant();
  DeleteTenantRequest tenant;
  tenant.set_name("tenants/t");
  twice(world.tenants, &TenantService::Stub::DeleteTenant, tenant, make_tenant);
  CHECK(Call(world.tenants, &TenantService::Stub::DeleteTenant, tenant, &empty).ok());
}

}  // namespace hearth::control
