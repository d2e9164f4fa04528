// SPDX-License-Identifier: Apache-2.0
// Snapshots and images.
#include "control-plane/api/grpc_support.h"
#include "control-plane/api/services.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::control {
namespace {

using namespace hearth::v1;  // NOLINT: this file is about its messages.
using google::protobuf::Empty;
using grpc::ServerContext;

class SnapshotServiceImpl final : public SnapshotService::Service {
 public:
  explicit SnapshotServiceImpl(Snapshots* snapshots) : snapshots_(snapshots) {}
  grpc::Status ListSnapshots(ServerContext*, const ListSnapshotsRequest* request,
                             ListSnapshotsResponse* response) override {
    return Answer(snapshots_->List(*request), response);
  }
  grpc::Status GetSnapshot(ServerContext*, const GetSnapshotRequest* request,
                           Snapshot* response) override {
    return Answer(snapshots_->Get(*request), response);
  }
  grpc::Status DeleteSnapshot(ServerContext*, const DeleteSnapshotRequest* request,
                              Empty* response) override {
    return Answer(snapshots_->Delete(*request), response);
  }
  grpc::Status RebuildSnapshot(ServerContext*, const RebuildSnapshotRequest* request,
                               google::longrunning::Operation* response) override {
    return Answer(snapshots_->Rebuild(*request), response);
  }

 private:
  Snapshots* const snapshots_;
};

class ImageServiceImpl final : public ImageService::Service {
 public:
  explicit ImageServiceImpl(ImageCatalog* images) : images_(images) {}
  grpc::Status ListImages(ServerContext*, const ListImagesRequest* request,
                          ListImagesResponse* response) override {
    return Answer(images_->List(*request), response);
  }
  grpc::Status ListOutdated(ServerContext*, const ListOutdatedRequest* request,
                            ListOutdatedResponse* response) override {
    return Answer(images_->ListOutdated(*request), response);
  }
  grpc::Status ReloadImages(ServerContext*, const ReloadImagesRequest* request,
                            ReloadImagesResponse* response) override {
    return Answer(images_->Reload(*request), response);
  }

 private:
  ImageCatalog* const images_;
};

}  // namespace

void AddSnapshotServices(const ServiceParts& parts, Services* services) {
  services->push_back(std::make_unique<SnapshotServiceImpl>(parts.snapshots));
  services->push_back(std::make_unique<ImageServiceImpl>(parts.images));
}

}  // namespace hearth::control
