// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/api/snapshots.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/node.h"
#include "control-plane/routing/router.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// The images, and what still runs on older ones. Thread-safe.
class ImageCatalog {
 public:
  // All outlive it.
  struct Parts {
    MetadataStore* metadata;
    ImageStore* images;
    Node* node;
    Router* router;
    Snapshots* snapshots;
  };

  explicit ImageCatalog(const Parts& parts) : parts_(parts), replays_(parts.metadata) {}

  absl::StatusOr<hearth::v1::ListImagesResponse> List(const hearth::v1::ListImagesRequest& request);
  absl::StatusOr<hearth::v1::ListOutdatedResponse> ListOutdated(
      const hearth::v1::ListOutdatedRequest& request);
  absl::StatusOr<hearth::v1::ReloadImagesResponse> Reload(
      const hearth::v1::ReloadImagesRequest& request);

 private:
  std::vector<hearth::v1::Image> Images();
  absl::Status ReloadNow(hearth::v1::ReloadImagesResponse* response)
      ABSL_LOCKS_EXCLUDED(reloading_);

  const Parts parts_;
  SlowReplays replays_;
  absl::Mutex reloading_;
};

}  // namespace hearth::control
