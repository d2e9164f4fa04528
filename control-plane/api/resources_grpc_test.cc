// SPDX-License-Identifier: Apache-2.0
// Tenants, functions, versions, aliases, artifacts and operations, through a real client.
#include <thread>

#include "control-plane/api/test_world.h"
#include "control-plane/limits.h"
#include "control-plane/store/uuid.h"

namespace hearth::control {

using namespace hearth::v1;  // NOLINT: this file is about its messages.

namespace {

// Calls a unary method of a stub.
template <class Stub, class Request, class Response>
grpc::Status Call(const std::unique_ptr<Stub>& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
  grpc::ClientContext context;
  return ((*stub).*method)(&context, request, response);
}

template <class Response, class Stub, class Request>
Response Get(const std::unique_ptr<Stub>& stub,
             grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
             const Request& request) {
  Response response;
  const grpc::Status status = Call(stub, method, request, &response);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return response;
}

GetFunctionRequest Named(const std::string& name) {
  GetFunctionRequest request;
  request.set_name(name);
  return request;
}

}  // namespace

TEST_CASE("tenants: made, listed in pages, updated under an etag, deleted when empty") {
  World world;
  CreateTenantRequest create;
  for (const char* id : {"a", "b", "c"}) {
    create.set_tenant_id(id);
    create.mutable_tenant()->set_display_name(id);
    Get<Tenant>(world.tenants, &TenantService::Stub::CreateTenant, create);
  }
  Tenant tenant;
  CHECK(Reason(Call(world.tenants, &TenantService::Stub::CreateTenant, create, &tenant)) ==
        "RESOURCE_EXISTS");
  ListTenantsRequest list;
  list.set_page_size(2);
  std::string seen;
  do {
    const auto page =
        Get<ListTenantsResponse>(world.tenants, &TenantService::Stub::ListTenants, list);
    for (const auto& one : page.tenants()) seen += one.name().substr(8) + " ";
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  CHECK(seen == "a b c default ");

  GetTenantRequest get;
  get.set_name("tenants/a");
  const auto a = Get<Tenant>(world.tenants, &TenantService::Stub::GetTenant, get);
  CHECK(IsUuid(a.uid()));
  UpdateTenantRequest update;
  *update.mutable_tenant() = a;
  update.mutable_tenant()->set_display_name("new");
  const auto updated = Get<Tenant>(world.tenants, &TenantService::Stub::UpdateTenant, update);
  CHECK(updated.display_name() == "new");
  CHECK(updated.etag() != a.etag());
  CHECK(updated.uid() == a.uid());
  const auto stale = Call(world.tenants, &TenantService::Stub::UpdateTenant, update, &tenant);
  CHECK(stale.error_code() == grpc::StatusCode::ABORTED);
  CHECK(Reason(stale) == "ETAG_MISMATCH");

  world.MakeFunction("f");
  DeleteTenantRequest erase;
  google::protobuf::Empty empty;
  erase.set_name(kTenant);
  CHECK(Reason(Call(world.tenants, &TenantService::Stub::DeleteTenant, erase, &empty)) ==
        "TENANT_NOT_EMPTY");
  erase.set_name("tenants/b");
  CHECK(Call(world.tenants, &TenantService::Stub::DeleteTenant, erase, &empty).ok());
  CHECK(Call(world.tenants, &TenantService::Stub::DeleteTenant, erase, &empty).error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("functions: a repeated request_id is the same request, another content is refused") {
  World world;
  CreateFunctionRequest create;
  create.set_parent(kTenant);
  create.set_function_id("f");
  create.set_request_id(world.state->uuids.Next());
  const auto first = Get<Function>(world.functions, &FunctionService::Stub::CreateFunction, create);
  const auto again = Get<Function>(world.functions, &FunctionService::Stub::CreateFunction, create);
  CHECK(again.uid() == first.uid());
  Function function;
  create.set_function_id("g");
  const auto other =
      Call(world.functions, &FunctionService::Stub::CreateFunction, create, &function);
  CHECK(other.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(other) == "REQUEST_ID_REUSED");
  create.set_request_id("not a uuid");
  CHECK(Reason(Call(world.functions, &FunctionService::Stub::CreateFunction, create, &function)) ==
        "INVALID_FIELD");
}

TEST_CASE("functions: wrong names and missing parents are told field by field") {
  World world;
  CreateFunctionRequest create;
  create.set_parent("tenants/");
  create.set_function_id("no spaces");
  Function function;
  const auto status =
      Call(world.functions, &FunctionService::Stub::CreateFunction, create, &function);
  google::rpc::BadRequest bad;
  REQUIRE(Detailed(Details(status), &bad));
  REQUIRE(bad.field_violations_size() == 2);
  CHECK(bad.field_violations(0).field() == "parent");
  CHECK(bad.field_violations(1).field() == "function_id");
  create.set_parent("tenants/none");
  create.set_function_id("f");
  CHECK(Call(world.functions, &FunctionService::Stub::CreateFunction, create, &function)
            .error_code() == grpc::StatusCode::NOT_FOUND);
}

TEST_CASE("versions: a deploy goes through its stages, and the version becomes live") {
  World world;
  const std::string f = world.MakeFunction("f");
  const auto operation = world.Wait(world.Begin(world.VersionRequest(f, "echo.handler")).name());
  CreateVersionMetadata metadata;
  REQUIRE(operation.metadata().UnpackTo(&metadata));
  CHECK(metadata.percent() == 100);
  std::vector<int> stages;
  for (const auto& stage : metadata.finished()) stages.push_back(stage.stage());
  CHECK(stages ==
        std::vector<int>{CreateVersionMetadata::QUEUED, CreateVersionMetadata::BUILDING_IMAGE,
                         CreateVersionMetadata::BOOTING, CreateVersionMetadata::INITIALIZING,
                         CreateVersionMetadata::SNAPSHOTTING, CreateVersionMetadata::PUBLISHING});
  Version version;
  REQUIRE(operation.response().UnpackTo(&version));
  CHECK(version.name() == f + "/versions/1");
  CHECK(version.state() == Version::READY);
  CHECK(IsDigest(version.code_digest()));
  CHECK(version.init_duration().nanos() == 7'000'000);

  const auto function =
      Get<Function>(world.functions, &FunctionService::Stub::GetFunction, Named(f));
  CHECK(function.live_version() == version.name());
  CHECK(function.latest_version() == version.name());

  auto second = world.VersionRequest(f, "echo.handler");
  second.set_keep_live(true);
  world.Wait(world.Begin(second).name());
  CHECK(Get<Function>(world.functions, &FunctionService::Stub::GetFunction, Named(f))
            .live_version() == version.name());
  DeleteVersionRequest erase;
  erase.set_name(version.name());
  google::protobuf::Empty empty;
  CHECK(Reason(Call(world.functions, &FunctionService::Stub::DeleteVersion, erase, &empty)) ==
        "VERSION_IN_USE");
  erase.set_name(f + "/versions/2");
  CHECK(Call(world.functions, &FunctionService::Stub::DeleteVersion, erase, &empty).ok());
  CHECK(world.Deploy(f, "echo.handler").name() == f + "/versions/3");  // Never a number twice.
}

TEST_CASE("versions: secrets reach the node and are told to nobody") {
  World world;
  const std::string f = world.MakeFunction("f");
  auto request = world.VersionRequest(f, "echo.handler");
  (*request.mutable_version()->mutable_spec()->mutable_secrets())["TOKEN"] = "hush";
  const auto operation = world.Wait(world.Begin(request).name());
  Version told;
  REQUIRE(operation.response().UnpackTo(&told));
  CHECK(world.node->prepared()->secrets.at("TOKEN") == "hush");
  CHECK(world.node->prepared()->environment.count("TOKEN") == 0);
  GetVersionRequest get;
  get.set_name(told.name());
  ListVersionsRequest list;
  list.set_parent(f);
  const auto got = Get<Version>(world.functions, &FunctionService::Stub::GetVersion, get);
  const auto listed =
      Get<ListVersionsResponse>(world.functions, &FunctionService::Stub::ListVersions, list);
  REQUIRE(listed.versions_size() == 1);
  for (const Version& version : {told, got, listed.versions(0)}) {
    CHECK(version.spec().runtime() == request.version().spec().runtime());
    CHECK(version.spec().secrets().empty());
  }
  CHECK(operation.SerializeAsString().find("hush") == std::string::npos);
}

TEST_CASE("versions: a function's own failure is the operation's error, with what it said") {
  World world;
  const std::string f = world.MakeFunction("f");
  const auto operation = world.Wait(world.Begin(world.VersionRequest(f, "bad.handler")).name());
  CHECK(operation.error().code() == 9);
  CHECK(Reason(operation.error()) == "FUNCTION_INIT_FAILED");
  FunctionError error;
  REQUIRE(Detailed(operation.error(), &error));
  CHECK(error.type() == "Runtime.ImportModuleError");
  GetVersionRequest get;
  get.set_name(f + "/versions/1");
  CHECK(Get<Version>(world.functions, &FunctionService::Stub::GetVersion, get).state() ==
        Version::FAILED);
  InvokeResponse response;
  CHECK(Reason(world.Invoke(f, "x", &response)) == "NO_LIVE_VERSION");
}

TEST_CASE("versions: every wrong field is told, with what to do") {
  World world;
  const std::string f = world.MakeFunction("f");
  const auto fields = [&](const CreateVersionRequest& request) {
    google::longrunning::Operation operation;
    const auto status =
        Call(world.functions, &FunctionService::Stub::CreateVersion, request, &operation);
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    google::rpc::BadRequest bad;
    std::string all;
    if (Detailed(Details(status), &bad)) {
      for (const auto& violation : bad.field_violations()) all += violation.field() + " ";
    }
    return all;
  };
  auto request = world.VersionRequest(f, "echo.handler");
  auto* spec = request.mutable_version()->mutable_spec();
  for (const int memory : {1, 127, 129, 1025, 4098, 10241, 20000, -128}) {
    spec->set_memory_mib(memory);
    INFO(memory);
    CHECK(fields(request) == "version.spec.memory_mib ");
  }
  spec->set_memory_mib(0);
  spec->set_runtime("cobol");
  spec->set_artifact("x");
  spec->mutable_timeout()->set_seconds(901);
  spec->mutable_init_timeout()->set_seconds(-1);
  (*spec->mutable_environment())["1A"] = "x";
  (*spec->mutable_environment())["AWS_LAMBDA_X"] = "x";
  (*spec->mutable_environment())["BOTH"] = "x";
  (*spec->mutable_secrets())["BOTH"] = "x";
  (*spec->mutable_secrets())["HEARTH_INSTANCE_ID"] = "x";
  (*spec->mutable_secrets())["LONG"] = std::string(4096, 'x');
  const std::string all = fields(request);
  for (const char* field : {"runtime", "artifact", "timeout", "init_timeout", "environment['1A']",
                            "environment['AWS_LAMBDA_X']", "secrets['BOTH']",
                            "secrets['HEARTH_INSTANCE_ID']", "environment "}) {
    INFO(field);
    CHECK(all.find(std::string("version.spec.") + field) != std::string::npos);
  }
  request = world.VersionRequest(f, "");
  CHECK(fields(request) == "version.spec.interface.runtime_api.handler ");
  request.mutable_version()->mutable_spec()->mutable_interface()->mutable_stdio();
  CHECK(fields(request) == "version.spec.interface.stdio.command ");
  request.mutable_version()->mutable_spec()->mutable_interface()->mutable_http();
  google::longrunning::Operation operation;
  const auto http =
      Call(world.functions, &FunctionService::Stub::CreateVersion, request, &operation);
  CHECK(http.error_code() == grpc::StatusCode::UNIMPLEMENTED);
  CHECK(Reason(http) == "INTERFACE_NOT_SERVED");
}

TEST_CASE("versions: of more wrong fields than an error can hold as many are told as fit") {
  World world;
  auto request = world.VersionRequest(world.MakeFunction("f"), "echo.handler");
  for (int i = 0; i < 40; ++i) {
    (*request.mutable_version()->mutable_spec()->mutable_environment())[std::to_string(i) +
                                                                        std::string(60, 'x')] = "x";
  }
  google::longrunning::Operation operation;
  const auto status =
      Call(world.functions, &FunctionService::Stub::CreateVersion, request, &operation);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(status) == "INVALID_FIELD");
  google::rpc::BadRequest bad;
  REQUIRE(Detailed(Details(status), &bad));
  CHECK(bad.field_violations_size() > 5);
  CHECK(bad.field_violations_size() < 40);
}

TEST_CASE(
    "versions: two deploys of one function at once both get their number; the higher is live") {
  World world;
  const std::string f = world.MakeFunction("f");
  const auto request = world.VersionRequest(f, "echo.handler");
  // Catch2's macros are for one thread.
  std::vector<google::longrunning::Operation> begun(2);
  std::vector<std::thread> clients;
  for (auto& operation : begun) {
    clients.emplace_back(
        [&] { Call(world.functions, &FunctionService::Stub::CreateVersion, request, &operation); });
  }
  for (auto& client : clients) client.join();
  std::set<std::string> versions;
  for (const auto& operation : begun) {
    Version version;
    REQUIRE(world.Wait(operation.name()).response().UnpackTo(&version));
    versions.insert(version.name());
  }
  CHECK(versions == std::set<std::string>{f + "/versions/1", f + "/versions/2"});
  CHECK(Get<Function>(world.functions, &FunctionService::Stub::GetFunction, Named(f))
            .live_version() == f + "/versions/2");
}

TEST_CASE(
    "operations: a deploy can be cancelled, and a repeat of its request is the same operation") {
  World world;
  const std::string f = world.MakeFunction("f");
  auto request = world.VersionRequest(f, "slow.handler");
  request.set_request_id(world.state->uuids.Next());
  const auto operation = world.Begin(request);
  CHECK(world.Begin(request).name() == operation.name());
  google::longrunning::DeleteOperationRequest erase;
  erase.set_name(operation.name());
  google::protobuf::Empty empty;
  using OperationsStub = google::longrunning::Operations::Stub;
  CHECK(Reason(Call(world.operations, &OperationsStub::DeleteOperation, erase, &empty)) ==
        "OPERATION_UNDER_WAY");
  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name(operation.name());
  CHECK(Call(world.operations, &OperationsStub::CancelOperation, cancel, &empty).ok());
  const auto ended = world.Wait(operation.name());
  CHECK(ended.error().code() == 1);
  CHECK(Reason(ended.error()) == "CANCELLED");
  google::longrunning::ListOperationsRequest list;
  list.set_name(kTenant);
  CHECK(Get<google::longrunning::ListOperationsResponse>(world.operations,
                                                         &OperationsStub::ListOperations, list)
            .operations_size() == 1);
  CHECK(Call(world.operations, &OperationsStub::DeleteOperation, erase, &empty).ok());
  google::longrunning::Operation gone;
  google::longrunning::GetOperationRequest get;
  get.set_name(operation.name());
  CHECK(Call(world.operations, &OperationsStub::GetOperation, get, &gone).error_code() ==
        grpc::StatusCode::NOT_FOUND);
}

TEST_CASE(
    "operations: a deploy that is refused leaves nothing, and is taken when there is room again") {
  ServerLimits few;
  few.deploys_queued = 2;
  World world(few);
  const std::string f = world.MakeFunction("f");
  auto request = world.VersionRequest(f, "slow.handler");
  const size_t most = limits::kMaxDeploysAtOnce + few.deploys_queued;
  std::vector<std::string> taken;
  for (size_t i = 0; i < most; ++i) taken.push_back(world.Begin(request).name());
  const std::string last = f + "/versions/" + std::to_string(most);
  request.set_request_id(world.state->uuids.Next());
  google::longrunning::Operation operation;
  for (int i = 0; i < 2; ++i) {
    const auto refused =
        Call(world.functions, &FunctionService::Stub::CreateVersion, request, &operation);
    CHECK(refused.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
    CHECK(Reason(refused) == "TOO_MANY_DEPLOYS");
    google::rpc::RetryInfo retry;
    CHECK(Detailed(Details(refused), &retry));
  }
  CHECK(Get<Function>(world.functions, &FunctionService::Stub::GetFunction, Named(f))
            .latest_version() == last);
  google::longrunning::CancelOperationRequest cancel;
  google::protobuf::Empty empty;
  for (const std::string& name : taken) {
    cancel.set_name(name);
    Call(world.operations, &google::longrunning::Operations::Stub::CancelOperation, cancel, &empty);
  }
  for (const std::string& name : taken) world.Wait(name);
  const auto retried = world.Begin(request);
  CHECK_FALSE(retried.done());
  CreateVersionMetadata metadata;
  REQUIRE(retried.metadata().UnpackTo(&metadata));
  CHECK(metadata.version() == f + "/versions/" + std::to_string(most + 1));
}

TEST_CASE("functions: deleted with a deploy under way, nothing of it is left") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  const auto operation = world.Begin(world.VersionRequest(f, "slow.handler"));
  DeleteFunctionRequest erase;
  erase.set_name(f);
  google::protobuf::Empty empty;
  CHECK(Call(world.functions, &FunctionService::Stub::DeleteFunction, erase, &empty).ok());
  CHECK(world.Wait(operation.name()).error().code() == 1);
  CHECK(world.node->ListInstances().empty());
  InvokeResponse response;
  CHECK(world.Invoke(f, "x", &response).error_code() == grpc::StatusCode::NOT_FOUND);
  // Made again, it is another function, and its versions are others.
  world.MakeFunction("f");
  CHECK(world.Deploy(f, "echo.handler").name() == f + "/versions/3");
}

TEST_CASE("functions: deleting one does not wait for its invocations, nor does making it again") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  world.Deploy(f, "gate.handler");
  InvokeResponse late;
  grpc::Status status;
  std::thread client([&] { status = world.Invoke(f, "late", &late); });
  Until([&] { return world.node->runs() == 1; });
  const auto erase = [&](auto method, const auto& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    google::protobuf::Empty empty;
    return ((*world.functions).*method)(&context, request, &empty).ok();
  };
  DeleteVersionRequest version;
  version.set_name(f + "/versions/1");
  CHECK(erase(&FunctionService::Stub::DeleteVersion, version));
  DeleteFunctionRequest function;
  function.set_name(f);
  CHECK(erase(&FunctionService::Stub::DeleteFunction, function));

  world.MakeFunction("f");
  CHECK(world.Deploy(f, "echo.handler").name() == f + "/versions/3");
  InvokeResponse response;
  CHECK(world.Invoke(f, "new", &response).ok());
  world.node->Open();
  client.join();
  CHECK(status.ok());
  CHECK(late.payload() == "late");
  TailLogsRequest tail;
  tail.set_parent(f);
  grpc::ClientContext context;
  auto reader = world.logs->TailLogs(&context, tail);
  TailLogsResponse lines;
  while (reader->Read(&lines)) {
    for (const auto& line : lines.entries()) {
      CHECK(line.invocation() != late.invocation().name());
    }
  }
  CHECK(reader->Finish().ok());
}

TEST_CASE("functions: the code of one that is deleted goes, unless another has the same") {
  World world;
  const std::string f = world.MakeFunction("f"), g = world.MakeFunction("g"),
                    h = world.MakeFunction("h");
  const auto path = [&](const Version& version) {
    return world.folder + "/state/code/" + DigestHex(version.code_digest());
  };
  const auto erase = [&](const std::string& name) {
    DeleteFunctionRequest request;
    request.set_name(name);
    google::protobuf::Empty empty;
    CHECK(Call(world.functions, &FunctionService::Stub::DeleteFunction, request, &empty).ok());
  };
  const std::string shared = path(world.Deploy(f, "echo.handler"));
  CHECK(path(world.Deploy(g, "echo.handler")) == shared);
  auto request = world.VersionRequest(h, "echo.handler");
  request.mutable_version()->mutable_spec()->set_artifact(world.Upload("print()"));
  Version other;
  REQUIRE(world.Wait(world.Begin(request).name()).response().UnpackTo(&other));
  CHECK(path(other) != shared);
  erase(f);
  erase(h);
  Until([&] { return !std::filesystem::exists(path(other)); });
  CHECK(std::filesystem::exists(shared));
  erase(g);
  Until([&] { return !std::filesystem::exists(shared); });
}

TEST_CASE("aliases: made, moved under an etag, resolved, deleted; `live` is told to the function") {
  World world;
  const std::string f = world.MakeFunction("f");
  world.Deploy(f, "echo.handler");
  world.Deploy(f, "error.handler");
  CreateAliasRequest create;
  create.set_parent(f);
  create.set_alias_id("beta");
  create.mutable_alias()->set_version(f + "/versions/1");
  const auto alias = Get<Alias>(world.functions, &FunctionService::Stub::CreateAlias, create);
  InvokeResponse response;
  REQUIRE(world.Invoke(alias.name(), "x", &response).ok());
  CHECK(response.invocation().outcome() == SUCCEEDED);
  UpdateAliasRequest update;
  *update.mutable_alias() = alias;
  update.mutable_alias()->set_version(f + "/versions/2");
  Get<Alias>(world.functions, &FunctionService::Stub::UpdateAlias, update);
  REQUIRE(world.Invoke(alias.name(), "x", &response).ok());
  CHECK(response.invocation().outcome() == FUNCTION_ERROR);
  Alias out;
  CHECK(Reason(Call(world.functions, &FunctionService::Stub::UpdateAlias, update, &out)) ==
        "ETAG_MISMATCH");
  update.mutable_alias()->clear_etag();
  update.mutable_alias()->set_name(f + "/aliases/live");
  update.mutable_alias()->set_version(f + "/versions/1");
  Get<Alias>(world.functions, &FunctionService::Stub::UpdateAlias, update);
  CHECK(Get<Function>(world.functions, &FunctionService::Stub::GetFunction, Named(f))
            .live_version() == f + "/versions/1");
  create.set_alias_id("none");
  create.mutable_alias()->set_version(f + "/versions/9");
  CHECK(Call(world.functions, &FunctionService::Stub::CreateAlias, create, &out).error_code() ==
        grpc::StatusCode::NOT_FOUND);
  DeleteAliasRequest erase;
  erase.set_name(alias.name());
  google::protobuf::Empty empty;
  CHECK(Call(world.functions, &FunctionService::Stub::DeleteAlias, erase, &empty).ok());
}

TEST_CASE("artifacts: equal content is one artifact, wrong claims and sizes are refused") {
  World world;
  Artifact first, again, none;
  REQUIRE(world.UploadBytes("content", "", 0, &first).ok());
  REQUIRE(world.UploadBytes("content", first.digest(), 7, &again).ok());
  CHECK(first.name() == again.name());
  CHECK(first.size_bytes() == 7);
  CHECK(Reason(world.UploadBytes("other", first.digest(), 0, &none)) == "ARTIFACT_MISMATCH");
  CHECK(Reason(world.UploadBytes("content", "", 8, &none)) == "ARTIFACT_MISMATCH");
  CHECK(Reason(world.UploadBytes("", "", limits::kMaxArtifactBytes + 1, &none)) == "INVALID_FIELD");
  CHECK(Reason(world.UploadBytes("content", "md5:1", 0, &none)) == "INVALID_FIELD");
  // Junk is found when it is to be unpacked.
  const std::string f = world.MakeFunction("f");
  auto request = world.VersionRequest(f, "echo.handler");
  request.mutable_version()->mutable_spec()->set_artifact(first.name());
  CHECK(Reason(world.Wait(world.Begin(request).name()).error()) == "ARTIFACT_INVALID");
}

}  // namespace hearth::control
