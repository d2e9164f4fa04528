// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "control-plane/api/operations.h"
#include "control-plane/api/slow_replays.h"
#include "control-plane/api/worker_pool.h"
#include "control-plane/node/node.h"
#include "control-plane/routing/router.h"
#include "control-plane/store/metadata_store.h"
#include "control-plane/store/uuid.h"
#include "google/protobuf/empty.pb.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// Snapshots of versions, as docs/api.md says; the node has them, the metadata does not.
// Thread-safe.
class Snapshots {
 public:
  // All outlive it.
  struct Parts {
    MetadataStore* metadata;
    Node* node;
    Router* router;
    Operations* operations;
    UuidGenerator* uuids;
    size_t max_rebuilds_queued;
  };

  explicit Snapshots(const Parts& parts);
  // Cancels what is under way and waits for it.
  ~Snapshots();

  absl::StatusOr<hearth::v1::ListSnapshotsResponse> List(
      const hearth::v1::ListSnapshotsRequest& request);
  absl::StatusOr<hearth::v1::Snapshot> Get(const hearth::v1::GetSnapshotRequest& request);
  absl::StatusOr<google::protobuf::Empty> Delete(const hearth::v1::DeleteSnapshotRequest& request);
  absl::StatusOr<google::longrunning::Operation> Rebuild(
      const hearth::v1::RebuildSnapshotRequest& request);

  // At start-up: deletes what is of no version any more.
  absl::Status Retain();
  // At start-up, and when the images have changed: replaces what was made from others.
  absl::Status RefreshAll();

 private:
  struct Job;
  void Run(const std::shared_ptr<Job>& job);
  absl::StatusOr<std::vector<hearth::v1::Version>> ReadyVersions();

  const Parts parts_;
  SlowReplays replays_;
  WorkerPool workers_;
};

}  // namespace hearth::control
