// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "control-plane/api/services.h"
#include "control-plane/limits.h"
#include "grpc/health/v1/health.pb.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

absl::Status MakeWay(const std::string& path) {
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("a socket's path has 1 to ",
                                                   sizeof(sockaddr_un::sun_path) - 1,
                                                   " bytes; choose another with --socket"));
  }
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(path);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is there and is no socket; choose another with --socket"));
  }
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("remove ", path));
}

}  // namespace

// In the order of making; they end in the reverse of it.
class ApiServer::Impl {
 public:
  Impl(State* state, Node* node, const ServerLimits& limits)
      : limits_(limits),
        state_(state),
        node_(node),
        garbage_(state),
        operations_(state->metadata.get()),
        logs_(state->uuids.Next()),
        router_(state->metadata.get(), state->images.get(), state->disks.get()),
        catalog_({state->metadata.get(), node, &router_, &operations_, &logs_, &state->uuids,
                  &garbage_}),
        artifacts_(state->metadata.get(), state->artifacts.get()),
        queries_(&catalog_, state->ledger.get(), node, state->images.get()),
        invoker_({state->metadata.get(), state->ledger.get(), node, &router_, &logs_, &state->uuids,
                  limits.buffered_bytes, limits.kept_response_bytes}),
        deployer_({state->metadata.get(), state->artifacts.get(), state->disks.get(),
                   state->images.get(), node, &router_, &operations_, &state->uuids, &garbage_,
                   limits.deploys_queued}),
        snapshots_({state->metadata.get(), node, &router_, &operations_, &state->uuids,
                    limits.rebuilds_queued}),
        images_({state->metadata.get(), state->images.get(), node, &router_, &snapshots_}) {
    node_->Watch(&logs_);
  }

  ~Impl() {
    Stop(absl::ZeroDuration());
    node_->Watch(nullptr);
  }

  absl::Status Start(const std::string& socket_path) {
    RETURN_IF_ERROR(operations_.Recover());
    RETURN_IF_ERROR(invoker_.Recover());
    RETURN_IF_ERROR(catalog_.MakeDefaultTenant());
    RETURN_IF_ERROR(state_->CollectGarbage());
    RETURN_IF_ERROR(snapshots_.Retain());
    RETURN_IF_ERROR(snapshots_.RefreshAll());
    RETURN_IF_ERROR(MakeWay(socket_path));
    const ServiceParts parts{&catalog_,     &deployer_,  &operations_, &invoker_, &artifacts_,
                             &queries_,     &snapshots_, &images_,     &logs_,    &limits_,
                             &invocations_, &followers_, &waits_};
    AddResourceServices(parts, &services_);
    AddInvocationServices(parts, &services_);
    AddSnapshotServices(parts, &services_);
    AddLogServices(parts, &services_);

    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // Linked in only if it is used, and reflection describes only what is.
    grpc::health::v1::HealthCheckRequest::descriptor();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("unix:", socket_path), grpc::InsecureServerCredentials());
    builder.SetMaxReceiveMessageSize(limits::kMaxMessageBytes);
    builder.SetResourceQuota(
        grpc::ResourceQuota("hearthd").SetMaxThreads(limits::kMaxUnaryThreads));
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::MAX_POLLERS, 2);
    for (auto& service : services_) builder.RegisterService(service.get());
    server_ = builder.BuildAndStart();
    if (!server_) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on the socket ", socket_path,
                       "; is its directory there and writable? choose another with --socket"));
    }
    auto* health = server_->GetHealthCheckService();
    for (const char* name : {"Tenant", "Function", "Artifact", "Invocation", "Log", "Usage",
                             "Instance", "Runtime", "Snapshot", "Image"}) {
      health->SetServingStatus(absl::StrCat("hearth.v1.", name, "Service"), true);
    }
    health->SetServingStatus("google.longrunning.Operations", true);
    health->SetServingStatus(true);
    return absl::OkStatus();
  }

  absl::Status ReloadImages() { return images_.Reload({}).status(); }

  void Stop(absl::Duration grace) {
    if (!server_) return;
    server_->GetHealthCheckService()->SetServingStatus(false);
    // These would go on for as long as their clients like, or as a guest does.
    logs_.Close();
    operations_.CancelAll();
    // Shutdown() cancels what is under way after the grace, and waits. Invocations with an
    // idempotency_key do not heed that, so they are told beside it.
    absl::Notification ended;
    std::thread ender([&] {
      if (!ended.WaitForNotificationWithTimeout(grace)) invoker_.End();
    });
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    ended.Notify();
    ender.join();
    server_->Wait();
    server_.reset();
  }

 private:
  const ServerLimits limits_;
  State* const state_;
  Node* const node_;
  GarbageCollector garbage_;
  Operations operations_;
  LogHub logs_;
  Router router_;
  Catalog catalog_;
  Artifacts artifacts_;
  Queries queries_;
  Invoker invoker_;
  Deployer deployer_;
  Snapshots snapshots_;
  ImageCatalog images_;
  WorkerPool invocations_{limits_.invocations, 0};
  WorkerPool followers_{limits_.followers, 0};
  WorkerPool waits_{limits_.waits, 0};
  Services services_;
  std::unique_ptr<grpc::Server> server_;
};

ApiServer::ApiServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ApiServer::~ApiServer() = default;

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(const std::string& socket_path,
                                                            State* state, Node* node,
                                                            const ServerLimits& limits) {
  auto impl = std::make_unique<Impl>(state, node, limits);
  RETURN_IF_ERROR(impl->Start(socket_path));
  return std::unique_ptr<ApiServer>(new ApiServer(std::move(impl)));
}

absl::Status ApiServer::ReloadImages() { return impl_->ReloadImages(); }

void ApiServer::Stop(absl::Duration grace) { impl_->Stop(grace); }

}  // namespace hearth::control
