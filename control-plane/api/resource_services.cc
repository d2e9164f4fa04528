// SPDX-License-Identifier: Apache-2.0
// The services whose calls are short: synchronous, on gRPC's own bounded threads.
#include <atomic>

#include "control-plane/api/grpc_support.h"
#include "control-plane/api/services.h"
#include "control-plane/limits.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.
using google::protobuf::Empty;
using grpc::ServerContext;

class TenantServiceImpl final : public TenantService::Service {
 public:
  explicit TenantServiceImpl(Catalog* catalog) : catalog_(catalog) {}
  grpc::Status CreateTenant(ServerContext*, const CreateTenantRequest* request,
                            Tenant* response) override {
    return Answer(catalog_->CreateTenant(*request), response);
  }
  grpc::Status GetTenant(ServerContext*, const GetTenantRequest* request,
                         Tenant* response) override {
    return Answer(catalog_->GetTenant(*request), response);
  }
  grpc::Status ListTenants(ServerContext*, const ListTenantsRequest* request,
                           ListTenantsResponse* response) override {
    return Answer(catalog_->ListTenants(*request), response);
  }
  grpc::Status UpdateTenant(ServerContext*, const UpdateTenantRequest* request,
                            Tenant* response) override {
    return Answer(catalog_->UpdateTenant(*request), response);
  }
  grpc::Status DeleteTenant(ServerContext*, const DeleteTenantRequest* request,
                            Empty* response) override {
    return Answer(catalog_->DeleteTenant(*request), response);
  }

 private:
  Catalog* const catalog_;
};

class FunctionServiceImpl final : public FunctionService::Service {
 public:
  FunctionServiceImpl(Catalog* catalog, Deployer* deployer)
      : catalog_(catalog), deployer_(deployer) {}
  grpc::Status CreateFunction(ServerContext*, const CreateFunctionRequest* request,
                              Function* response) override {
    return Answer(catalog_->CreateFunction(*request), response);
  }
  grpc::Status GetFunction(ServerContext*, const GetFunctionRequest* request,
                           Function* response) override {
    return Answer(catalog_->GetFunction(*request), response);
  }
  grpc::Status ListFunctions(ServerContext*, const ListFunctionsRequest* request,
                             ListFunctionsResponse* response) override {
    return Answer(catalog_->ListFunctions(*request), response);
  }
  grpc::Status UpdateFunction(ServerContext*, const UpdateFunctionRequest* request,
                              Function* response) override {
    return Answer(catalog_->UpdateFunction(*request), response);
  }
  grpc::Status DeleteFunction(ServerContext*, const DeleteFunctionRequest* request,
                              Empty* response) override {
    return Answer(catalog_->DeleteFunction(*request), response);
  }
  grpc::Status CreateVersion(ServerContext*, const CreateVersionRequest* request,
                             google::longrunning::Operation* response) override {
    return Answer(deployer_->CreateVersion(*request), response);
  }
  grpc::Status GetVersion(ServerContext*, const GetVersionRequest* request,
                          Version* response) override {
    return Answer(catalog_->GetVersion(*request), response);
  }
  grpc::Status ListVersions(ServerContext*, const ListVersionsRequest* request,
                            ListVersionsResponse* response) override {
    return Answer(catalog_->ListVersions(*request), response);
  }
  grpc::Status DeleteVersion(ServerContext*, const DeleteVersionRequest* request,
                             Empty* response) override {
    return Answer(catalog_->DeleteVersion(*request), response);
  }
  grpc::Status CreateAlias(ServerContext*, const CreateAliasRequest* request,
                           Alias* response) override {
    return Answer(catalog_->CreateAlias(*request), response);
  }
  grpc::Status GetAlias(ServerContext*, const GetAliasRequest* request, Alias* response) override {
    return Answer(catalog_->GetAlias(*request), response);
  }
  grpc::Status ListAliases(ServerContext*, const ListAliasesRequest* request,
                           ListAliasesResponse* response) override {
    return Answer(catalog_->ListAliases(*request), response);
  }
  grpc::Status UpdateAlias(ServerContext*, const UpdateAliasRequest* request,
                           Alias* response) override {
    return Answer(catalog_->UpdateAlias(*request), response);
  }
  grpc::Status DeleteAlias(ServerContext*, const DeleteAliasRequest* request,
                           Empty* response) override {
    return Answer(catalog_->DeleteAlias(*request), response);
  }

 private:
  Catalog* const catalog_;
  Deployer* const deployer_;
};

class ArtifactServiceImpl final : public ArtifactService::Service {
 public:
  ArtifactServiceImpl(Artifacts* artifacts, size_t max_uploads)
      : artifacts_(artifacts), max_uploads_(max_uploads) {}

  grpc::Status UploadArtifact(ServerContext* context,
                              grpc::ServerReader<UploadArtifactRequest>* reader,
                              Artifact* response) override {
    // An upload waits for its client, so it must not have all the threads.
    if (uploads_.fetch_add(1) >= max_uploads_) {
      uploads_.fetch_sub(1);
      return ToGrpc(TooManyCalls("TOO_MANY_UPLOADS", max_uploads_));
    }
    auto artifact = Upload(context, reader);
    uploads_.fetch_sub(1);
    return Answer(std::move(artifact), response);
  }
  grpc::Status GetArtifact(ServerContext*, const GetArtifactRequest* request,
                           Artifact* response) override {
    return Answer(artifacts_->Get(*request), response);
  }

 private:
  absl::StatusOr<Artifact> Upload(ServerContext* context,
                                  grpc::ServerReader<UploadArtifactRequest>* reader) {
    UploadArtifactRequest request;
    if (!reader->Read(&request) || !request.has_header()) {
      return InvalidField("header", "must come first");
    }
    auto session = artifacts_->Begin(request.header());
    if (!session.ok()) return session.status();
    while (reader->Read(&request)) {
      if (!request.has_chunk()) return InvalidField("chunk", "must come behind the header");
      const absl::Status status = session->Write(request.chunk());
      if (!status.ok()) return status;
    }
    // A client that broke off has not sent it all.
    if (context->IsCancelled()) return absl::CancelledError("the client left");
    return session->Commit();
  }

  Artifacts* const artifacts_;
  const size_t max_uploads_;
  std::atomic<size_t> uploads_{0};
};

class UsageServiceImpl final : public UsageService::Service {
 public:
  explicit UsageServiceImpl(Queries* queries) : queries_(queries) {}
  grpc::Status QueryUsage(ServerContext*, const QueryUsageRequest* request,
                          QueryUsageResponse* response) override {
    return Answer(queries_->QueryUsage(*request), response);
  }

 private:
  Queries* const queries_;
};

class InstanceServiceImpl final : public InstanceService::Service {
 public:
  explicit InstanceServiceImpl(Queries* queries) : queries_(queries) {}
  grpc::Status ListInstances(ServerContext*, const ListInstancesRequest* request,
                             ListInstancesResponse* response) override {
    return Answer(queries_->ListInstances(*request), response);
  }

 private:
  Queries* const queries_;
};

class RuntimeServiceImpl final : public RuntimeService::Service {
 public:
  explicit RuntimeServiceImpl(Queries* queries) : queries_(queries) {}
  grpc::Status ListRuntimes(ServerContext*, const ListRuntimesRequest* request,
                            ListRuntimesResponse* response) override {
    return Answer(queries_->ListRuntimes(*request), response);
  }

 private:
  Queries* const queries_;
};

}  // namespace

void AddResourceServices(const ServiceParts& parts, Services* services) {
  services->push_back(std::make_unique<TenantServiceImpl>(parts.catalog));
  services->push_back(std::make_unique<FunctionServiceImpl>(parts.catalog, parts.deployer));
  services->push_back(
      std::make_unique<ArtifactServiceImpl>(parts.artifacts, parts.limits->uploads));
  services->push_back(std::make_unique<UsageServiceImpl>(parts.queries));
  services->push_back(std::make_unique<InstanceServiceImpl>(parts.queries));
  services->push_back(std::make_unique<RuntimeServiceImpl>(parts.queries));
}

}  // namespace hearth::control
