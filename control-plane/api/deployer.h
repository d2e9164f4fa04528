// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "control-plane/api/garbage_collector.h"
#include "control-plane/api/operations.h"
#include "control-plane/api/worker_pool.h"
#include "control-plane/images/artifact_store.h"
#include "control-plane/images/code_disks.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/node.h"
#include "control-plane/routing/router.h"
#include "control-plane/store/metadata_store.h"
#include "control-plane/store/uuid.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// Makes versions. Several at a time, also of one function: each has its number from the moment it
// was asked for, and `live` moves only to a higher number than it has, so the order in which they
// finish does not matter. Thread-safe.
class Deployer {
 public:
  // All outlive the deployer.
  struct Parts {
    MetadataStore* metadata;
    const ArtifactStore* artifacts;
    CodeDisks* disks;
    const ImageStore* images;
    Node* node;
    Router* router;
    Operations* operations;
    UuidGenerator* uuids;
    GarbageCollector* garbage;
    size_t max_queued;
  };

  explicit Deployer(const Parts& parts);
  // Cancels what is under way and waits for it.
  ~Deployer();

  absl::StatusOr<google::longrunning::Operation> CreateVersion(
      const hearth::v1::CreateVersionRequest& request);

 private:
  struct Job;

  absl::Status Admit(MetadataTransaction& transaction,
                     const hearth::v1::CreateVersionRequest& request, Job* job);
  void Run(const std::shared_ptr<Job>& job);
  absl::Status Make(Job& job);
  absl::Status Publish(Job& job, const PreparedVersion& prepared);
  void Fail(Job& job, const absl::Status& error);
  void Enter(Job& job, hearth::v1::CreateVersionMetadata::Stage stage);
  void Report(Job& job, int percent);

  const Parts parts_;
  WorkerPool workers_;
};

}  // namespace hearth::control
