// SPDX-License-Identifier: Apache-2.0
#include "cli/testing/fake_hearthd.h"

#include <chrono>
#include <string>
#include <thread>

namespace hearth::cli {

namespace v1 = hearth::v1;
using grpc::ServerContext;
using grpc::Status;

// One class for each service, for their methods may share names.
class FakeHearthd::Services {
 public:
  explicit Services(FakeHearthd* fake)
      : tenants(fake),
        functions(fake),
        artifacts(fake),
        invocations(fake),
        logs(fake),
        usage(fake),
        instances(fake),
        snapshots(fake),
        images(fake),
        operations(fake) {}

  struct Tenants final : v1::TenantService::Service {
    explicit Tenants(FakeHearthd* fake) : fake(fake) {}
    Status CreateTenant(ServerContext*, const v1::CreateTenantRequest*, v1::Tenant*) override {
      fake->calls.push_back("CreateTenant");
      return Status(grpc::StatusCode::ALREADY_EXISTS, "there is one");
    }
    FakeHearthd* const fake;
  } tenants;

  struct Functions final : v1::FunctionService::Service {
    explicit Functions(FakeHearthd* fake) : fake(fake) {}
    Status GetFunction(ServerContext*, const v1::GetFunctionRequest* request,
                       v1::Function* function) override {
      fake->calls.push_back("GetFunction");
      if (!fake->function_exists) return Status(grpc::StatusCode::NOT_FOUND, "no such function");
      function->set_name(request->name());
      function->set_live_version(request->name() + "/versions/3");
      return Status::OK;
    }
    Status CreateFunction(ServerContext*, const v1::CreateFunctionRequest* request,
                          v1::Function*) override {
      fake->calls.push_back("CreateFunction");
      fake->described = request->function().description();
      return Status::OK;
    }
    Status UpdateFunction(ServerContext*, const v1::UpdateFunctionRequest* request,
                          v1::Function*) override {
      fake->calls.push_back("UpdateFunction " + request->update_mask().paths(0));
      fake->described = request->function().description();
      return Status::OK;
    }
    Status ListFunctions(ServerContext*, const v1::ListFunctionsRequest* request,
                         v1::ListFunctionsResponse* response) override {
      fake->calls.push_back("ListFunctions");
      if (!fake->list_status.ok()) return fake->list_status;
      const int first = request->page_token().empty() ? 0 : std::stoi(request->page_token());
      for (int i = first; i < fake->function_count && i < first + 2; ++i) {
        auto* function = response->add_functions();
        function->set_name(request->parent() + "/functions/f" + std::to_string(i));
        function->set_description("evil \033[2J");
      }
      if (first + 2 < fake->function_count) {
        response->set_next_page_token(std::to_string(first + 2));
      }
      return Status::OK;
    }
    Status CreateVersion(ServerContext*, const v1::CreateVersionRequest* request,
                         google::longrunning::Operation* operation) override {
      fake->calls.push_back("CreateVersion");
      fake->created_version = *request;
      operation->set_name("operations/1");
      return Status::OK;
    }
    Status GetVersion(ServerContext*, const v1::GetVersionRequest* request,
                      v1::Version* version) override {
      fake->calls.push_back("GetVersion");
      version->set_name(request->name());
      version->set_state(v1::Version::READY);
      version->mutable_spec()->set_runtime("python3.11");
      version->mutable_spec()->mutable_interface()->mutable_runtime_api()->set_handler("app.h");
      (*version->mutable_spec()->mutable_environment())["TOKEN"] = "secret";
      return Status::OK;
    }
    Status ListAliases(ServerContext*, const v1::ListAliasesRequest* request,
                       v1::ListAliasesResponse* response) override {
      auto* alias = response->add_aliases();
      alias->set_name(request->parent() + "/aliases/live");
      alias->set_version(request->parent() + "/versions/3");
      return Status::OK;
    }
    Status GetAlias(ServerContext*, const v1::GetAliasRequest* request, v1::Alias* alias) override {
      fake->calls.push_back("GetAlias " + request->name());
      if (request->name() != "tenants/default/functions/f/aliases/live") {
        return Status(grpc::StatusCode::NOT_FOUND, "no such alias");
      }
      alias->set_name(request->name());
      alias->set_version("tenants/default/functions/f/versions/3");
      return Status::OK;
    }
    Status DeleteFunction(ServerContext*, const v1::DeleteFunctionRequest*,
                          google::protobuf::Empty*) override {
      fake->calls.push_back("DeleteFunction");
      return Status::OK;
    }
    Status DeleteVersion(ServerContext*, const v1::DeleteVersionRequest* request,
                         google::protobuf::Empty*) override {
      fake->calls.push_back("DeleteVersion " + request->name());
      return Status::OK;
    }
    FakeHearthd* const fake;
  } functions;

  struct Artifacts final : v1::ArtifactService::Service {
    explicit Artifacts(FakeHearthd* fake) : fake(fake) {}
    Status GetArtifact(ServerContext*, const v1::GetArtifactRequest* request,
                       v1::Artifact* artifact) override {
      fake->calls.push_back("GetArtifact");
      if (!fake->artifact_exists) return Status(grpc::StatusCode::NOT_FOUND, "no such artifact");
      artifact->set_name(request->name());
      return Status::OK;
    }
    Status UploadArtifact(ServerContext*, grpc::ServerReader<v1::UploadArtifactRequest>* reader,
                          v1::Artifact* artifact) override {
      fake->calls.push_back("UploadArtifact");
      if (!fake->upload_status.ok()) return fake->upload_status;
      v1::UploadArtifactRequest part;
      while (reader->Read(&part)) {
        if (part.has_header()) fake->upload_header = part.header();
        fake->uploaded += part.chunk();
      }
      artifact->set_name("tenants/default/artifacts/sha256-uploaded");
      return Status::OK;
    }
    FakeHearthd* const fake;
  } artifacts;

  struct Invocations final : v1::InvocationService::Service {
    explicit Invocations(FakeHearthd* fake) : fake(fake) {}
    Status InvokeStream(ServerContext* context,
                        grpc::ServerReaderWriter<v1::InvokeStreamResponse, v1::InvokeStreamRequest>*
                            stream) override {
      if (!fake->invoke_status.ok()) return fake->invoke_status;
      v1::InvokeStreamRequest part;
      while (stream->Read(&part)) {
        if (part.has_start()) fake->invoked = part.start();
        fake->invoke_payload += part.has_start() ? part.start().payload() : part.chunk();
      }
      v1::InvokeStreamResponse answer;
      answer.mutable_started()->set_content_type(fake->response_type);
      stream->Write(answer);
      if (fake->hold_response) {
        fake->response_held.set_value();
        // A handler of this kind is told of a client that leaves only when it asks.
        while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        fake->client_left.set_value();
        return Status::CANCELLED;
      }
      for (size_t sent = 0; sent < fake->response.size(); sent += 1'000'000) {
        answer.set_chunk(fake->response.substr(sent, 1'000'000));
        stream->Write(answer);
      }
      if (fake->cut_response) return Status::OK;
      *answer.mutable_finished() = fake->invocation;
      stream->Write(answer);
      return Status::OK;
    }
    FakeHearthd* const fake;
  } invocations;

  struct LogsService final : v1::LogService::Service {
    explicit LogsService(FakeHearthd* fake) : fake(fake) {}
    Status TailLogs(ServerContext*, const v1::TailLogsRequest* request,
                    grpc::ServerWriter<v1::TailLogsResponse>* writer) override {
      fake->tailed = *request;
      v1::TailLogsResponse response;
      for (const auto& entry : fake->log) *response.add_entries() = entry;
      writer->Write(response);
      return Status::OK;
    }
    FakeHearthd* const fake;
  } logs;

  struct UsageServiceFake final : v1::UsageService::Service {
    explicit UsageServiceFake(FakeHearthd* fake) : fake(fake) {}
    Status QueryUsage(ServerContext*, const v1::QueryUsageRequest* request,
                      v1::QueryUsageResponse* response) override {
      fake->usage_request = *request;
      *response = fake->usage;
      return Status::OK;
    }
    FakeHearthd* const fake;
  } usage;

  struct Instances final : v1::InstanceService::Service {
    explicit Instances(FakeHearthd* fake) : fake(fake) {}
    Status ListInstances(ServerContext*, const v1::ListInstancesRequest* request,
                         v1::ListInstancesResponse*) override {
      fake->calls.push_back("ListInstances " + request->parent());
      return Status::OK;
    }
    FakeHearthd* const fake;
  } instances;

  struct SnapshotsFake final : v1::SnapshotService::Service {
    explicit SnapshotsFake(FakeHearthd* fake) : fake(fake) {}
    Status ListSnapshots(ServerContext*, const v1::ListSnapshotsRequest* request,
                         v1::ListSnapshotsResponse* response) override {
      fake->calls.push_back("ListSnapshots " + request->parent());
      if (!fake->snapshot.name().empty()) *response->add_snapshots() = fake->snapshot;
      return Status::OK;
    }
    Status GetSnapshot(ServerContext*, const v1::GetSnapshotRequest* request,
                       v1::Snapshot* snapshot) override {
      fake->calls.push_back("GetSnapshot " + request->name());
      *snapshot = fake->snapshot;
      return Status::OK;
    }
    Status DeleteSnapshot(ServerContext*, const v1::DeleteSnapshotRequest* request,
                          google::protobuf::Empty*) override {
      fake->calls.push_back("DeleteSnapshot " + request->name());
      return Status::OK;
    }
    Status RebuildSnapshot(ServerContext*, const v1::RebuildSnapshotRequest* request,
                           google::longrunning::Operation* operation) override {
      fake->calls.push_back("RebuildSnapshot " + request->parent());
      operation->set_name("operations/rebuild");
      return Status::OK;
    }
    FakeHearthd* const fake;
  } snapshots;

  struct ImagesFake final : v1::ImageService::Service {
    explicit ImagesFake(FakeHearthd* fake) : fake(fake) {}
    Status ListImages(ServerContext*, const v1::ListImagesRequest*,
                      v1::ListImagesResponse* response) override {
      *response->mutable_images() = fake->reloaded.images();
      return Status::OK;
    }
    Status ListOutdated(ServerContext*, const v1::ListOutdatedRequest*,
                        v1::ListOutdatedResponse* response) override {
      *response = fake->outdated;
      return Status::OK;
    }
    Status ReloadImages(ServerContext*, const v1::ReloadImagesRequest*,
                        v1::ReloadImagesResponse* response) override {
      fake->calls.push_back("ReloadImages");
      *response = fake->reloaded;
      return Status::OK;
    }
    FakeHearthd* const fake;
  } images;

  struct Operations final : google::longrunning::Operations::Service {
    explicit Operations(FakeHearthd* fake) : fake(fake) {}
    Status CancelOperation(ServerContext*,
                           const google::longrunning::CancelOperationRequest* request,
                           google::protobuf::Empty*) override {
      fake->calls.push_back("CancelOperation " + request->name());
      return Status::OK;
    }
    Status WaitOperation(ServerContext*, const google::longrunning::WaitOperationRequest* request,
                         google::longrunning::Operation* operation) override {
      if (fake->waited) fake->waited();
      operation->set_name(request->name());
      v1::CreateVersionMetadata metadata;
      metadata.set_stage(v1::CreateVersionMetadata::BOOTING);
      metadata.set_percent(40);
      const auto finish = [&](v1::CreateVersionMetadata::Stage stage, int ms) {
        auto* time = metadata.add_finished();
        time->set_stage(stage);
        time->mutable_duration()->set_nanos(ms % 1000 * 1'000'000);
        time->mutable_duration()->set_seconds(ms / 1000);
      };
      if (request->name() == "operations/rebuild") {
        operation->set_done(--fake->waits < 0);
        if (!operation->done()) return Status::OK;
        if (fake->deploy_error.code() != 0) {
          *operation->mutable_error() = fake->deploy_error;
        } else {
          operation->mutable_response()->PackFrom(fake->snapshot);
        }
        return Status::OK;
      }
      finish(v1::CreateVersionMetadata::QUEUED, 1);
      finish(v1::CreateVersionMetadata::BUILDING_IMAGE, 200);
      operation->set_done(--fake->waits < 0);
      if (operation->done()) {
        finish(v1::CreateVersionMetadata::BOOTING, 1100);
        finish(v1::CreateVersionMetadata::INITIALIZING, 2000);
        finish(v1::CreateVersionMetadata::SNAPSHOTTING, 300);
        if (fake->deploy_error.code() != 0) {
          *operation->mutable_error() = fake->deploy_error;
        } else {
          v1::Version version;
          version.set_name("tenants/default/functions/thumbnail/versions/1");
          operation->mutable_response()->PackFrom(version);
        }
      }
      operation->mutable_metadata()->PackFrom(metadata);
      return Status::OK;
    }
    FakeHearthd* const fake;
  } operations;
};

FakeHearthd::FakeHearthd(const std::string& socket) : services_(new Services(this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&services_->tenants);
  builder.RegisterService(&services_->functions);
  builder.RegisterService(&services_->artifacts);
  builder.RegisterService(&services_->invocations);
  builder.RegisterService(&services_->logs);
  builder.RegisterService(&services_->usage);
  builder.RegisterService(&services_->instances);
  builder.RegisterService(&services_->snapshots);
  builder.RegisterService(&services_->images);
  builder.RegisterService(&services_->operations);
  server_ = builder.BuildAndStart();
}

FakeHearthd::~FakeHearthd() { server_->Shutdown(); }

}  // namespace hearth::cli
