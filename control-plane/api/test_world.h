// SPDX-License-Identifier: Apache-2.0
// For tests: the API half over a FakeNode, and a real gRPC client on its Unix socket.
#pragma once

#include <grpcpp/grpcpp.h>
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "control-plane/api/fake_node.h"
#include "control-plane/api/names.h"
#include "control-plane/api/server.h"
#include "control-plane/images/child_process.h"
#include "control-plane/images/digest.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::control {

inline constexpr char kTenant[] = "tenants/default";

template <class Detail>
bool Detailed(const google::rpc::Status& status, Detail* detail) {
  for (const auto& any : status.details()) {
    if (any.UnpackTo(detail)) return true;
  }
  return false;
}

inline std::string Reason(const google::rpc::Status& status) {
  google::rpc::ErrorInfo info;
  return Detailed(status, &info) ? info.reason() : "";
}
inline google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  return details;
}
inline std::string Reason(const grpc::Status& status) { return Reason(Details(status)); }

// Waits for what another thread is about to do; no event of it can be seen from here.
template <class Condition>
void Until(Condition condition) {
  while (!condition()) std::this_thread::yield();
}

class World {
 public:
  explicit World(const ServerLimits& server_limits) : World(nullptr, server_limits) {}
  // `opened` may change a state before it is served.
  explicit World(std::function<void(State*)> opened = nullptr,
                 const ServerLimits& server_limits = {})
      : limits(server_limits), opened_(std::move(opened)) {
    char path[] = "/tmp/hearth-api-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    folder = path;
    std::filesystem::create_directory(folder + "/images");
    const auto file = [this](const std::string& name) {
      std::ofstream(folder + "/images/" + name) << name;
      return R"({"path": ")" + name + R"(", "digest": ")" + DigestOf(name) + R"("})";
    };
    std::ofstream(folder + "/images/manifest.json")
        << R"({"kernel": )" << file("kernel") << R"(, "agent": )" << file("agent")
        << R"(, "runtimes": {"python3.11": {"image": )" << file("py")
        << R"(, "manifest": {"argv": ["/usr/bin/python3"], "handlerRequired": true}}}})";
    Start();
  }
  ~World() {
    Stop();
    std::filesystem::remove_all(folder);
  }

  void Start() {
    auto opened = State::Open(folder + "/state", folder + "/images");
    INFO(opened.status());
    REQUIRE(opened.ok());
    state = *std::move(opened);
    if (opened_) opened_(state.get());
    node = std::make_unique<FakeNode>();
    auto started = ApiServer::Start(folder + "/socket", state.get(), node.get(), limits);
    INFO(started.status());
    REQUIRE(started.ok());
    server = *std::move(started);
    grpc::ChannelArguments arguments;
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);  // A connection of this test's own.
    channel = grpc::CreateCustomChannel("unix:" + folder + "/socket",
                                        grpc::InsecureChannelCredentials(), arguments);
    tenants = hearth::v1::TenantService::NewStub(channel);
    functions = hearth::v1::FunctionService::NewStub(channel);
    artifacts = hearth::v1::ArtifactService::NewStub(channel);
    invocations = hearth::v1::InvocationService::NewStub(channel);
    logs = hearth::v1::LogService::NewStub(channel);
    usage = hearth::v1::UsageService::NewStub(channel);
    instances = hearth::v1::InstanceService::NewStub(channel);
    runtimes = hearth::v1::RuntimeService::NewStub(channel);
    snapshots = hearth::v1::SnapshotService::NewStub(channel);
    images = hearth::v1::ImageService::NewStub(channel);
    operations = google::longrunning::Operations::NewStub(channel);
  }
  void Stop() {
    server.reset();
    node.reset();
    state.reset();
  }

  // Uploads a folder with one file; the artifact's name.
  std::string Upload(const std::string& content = "def handler(event, context): return event",
                     const std::string& tenant = kTenant) {
    std::filesystem::create_directories(folder + "/code");
    std::ofstream(folder + "/code/app.py") << content;
    REQUIRE(
        RunChild({"tar", "-C", folder + "/code", "-cf", folder + "/code.tar", "."}, Cancellation())
            .ok());
    std::ifstream file(folder + "/code.tar", std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    hearth::v1::Artifact artifact;
    const grpc::Status status = UploadBytes(bytes, {}, 0, &artifact, tenant);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return artifact.name();
  }
  grpc::Status UploadBytes(const std::string& bytes, const std::string& expected_digest,
                           int64_t expected_bytes, hearth::v1::Artifact* artifact,
                           const std::string& tenant = kTenant) {
    grpc::ClientContext context;
    auto writer = artifacts->UploadArtifact(&context, artifact);
    hearth::v1::UploadArtifactRequest request;
    request.mutable_header()->set_parent(tenant);
    request.mutable_header()->set_expected_digest(expected_digest);
    request.mutable_header()->set_size_bytes(expected_bytes);
    bool alive = writer->Write(request);
    for (size_t at = 0; alive && at < bytes.size(); at += 1 << 20) {
      request.set_chunk(bytes.substr(at, 1 << 20));
      alive = writer->Write(request);
    }
    writer->WritesDone();
    return writer->Finish();
  }

  std::string MakeFunction(const std::string& id, const std::string& tenant = kTenant) {
    hearth::v1::CreateFunctionRequest request;
    request.set_parent(tenant);
    request.set_function_id(id);
    hearth::v1::Function function;
    grpc::ClientContext context;
    const grpc::Status status = functions->CreateFunction(&context, request, &function);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return function.name();
  }

  hearth::v1::CreateVersionRequest VersionRequest(const std::string& function,
                                                  const std::string& handler) {
    const std::string tenant = ParentOf(function);
    std::string& artifact = uploaded_[tenant];
    if (artifact.empty()) artifact = Upload("def handler(event, context): return event", tenant);
    hearth::v1::CreateVersionRequest request;
    request.set_parent(function);
    auto* spec = request.mutable_version()->mutable_spec();
    spec->set_runtime("python3.11");
    spec->set_artifact(artifact);
    spec->mutable_interface()->mutable_runtime_api()->set_handler(handler);
    return request;
  }
  google::longrunning::Operation Begin(const hearth::v1::CreateVersionRequest& request) {
    google::longrunning::Operation operation;
    grpc::ClientContext context;
    const grpc::Status status = functions->CreateVersion(&context, request, &operation);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return operation;
  }
  google::longrunning::Operation Wait(const std::string& name) {
    google::longrunning::WaitOperationRequest request;
    request.set_name(name);
    google::longrunning::Operation operation;
    grpc::ClientContext context;
    const grpc::Status status = operations->WaitOperation(&context, request, &operation);
    INFO(status.error_message());
    REQUIRE(status.ok());
    REQUIRE(operation.done());
    return operation;
  }
  hearth::v1::Version Deploy(const std::string& function, const std::string& handler) {
    const auto operation = Wait(Begin(VersionRequest(function, handler)).name());
    INFO(operation.error().message());
    hearth::v1::Version version;
    REQUIRE(operation.response().UnpackTo(&version));
    return version;
  }

  grpc::Status Invoke(const std::string& name, const std::string& payload,
                      hearth::v1::InvokeResponse* response, const std::string& key = "") {
    hearth::v1::InvokeRequest request;
    request.set_name(name);
    request.set_payload(payload);
    request.set_idempotency_key(key);
    grpc::ClientContext context;
    return invocations->Invoke(&context, request, response);
  }

  const ServerLimits limits;
  std::string folder;
  std::unique_ptr<State> state;
  std::unique_ptr<FakeNode> node;
  std::unique_ptr<ApiServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<hearth::v1::TenantService::Stub> tenants;
  std::unique_ptr<hearth::v1::FunctionService::Stub> functions;
  std::unique_ptr<hearth::v1::ArtifactService::Stub> artifacts;
  std::unique_ptr<hearth::v1::InvocationService::Stub> invocations;
  std::unique_ptr<hearth::v1::LogService::Stub> logs;
  std::unique_ptr<hearth::v1::UsageService::Stub> usage;
  std::unique_ptr<hearth::v1::InstanceService::Stub> instances;
  std::unique_ptr<hearth::v1::RuntimeService::Stub> runtimes;
  std::unique_ptr<hearth::v1::SnapshotService::Stub> snapshots;
  std::unique_ptr<hearth::v1::ImageService::Stub> images;
  std::unique_ptr<google::longrunning::Operations::Stub> operations;

 private:
  const std::function<void(State*)> opened_;
  std::map<std::string, std::string> uploaded_;  // By tenant.
};

}  // namespace hearth::control
