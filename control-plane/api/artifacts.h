// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "control-plane/images/artifact_store.h"
#include "control-plane/store/metadata_store.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// Uploads, and whose they are. Thread-safe.
class Artifacts {
 public:
  // One upload; used on one thread.
  class Session {
   public:
    absl::Status Write(const std::string& chunk);
    // The same content again is the same artifact.
    absl::StatusOr<hearth::v1::Artifact> Commit();

   private:
    friend class Artifacts;
    Artifacts* artifacts_;
    hearth::v1::UploadArtifactRequest::Header header_;
    std::unique_ptr<ArtifactStore::Upload> upload_;
  };

  Artifacts(MetadataStore* metadata, const ArtifactStore* store)
      : metadata_(metadata), store_(store) {}

  absl::StatusOr<Session> Begin(const hearth::v1::UploadArtifactRequest::Header& header);
  absl::StatusOr<hearth::v1::Artifact> Get(const hearth::v1::GetArtifactRequest& request);

 private:
  MetadataStore* const metadata_;
  const ArtifactStore* const store_;
};

}  // namespace hearth::control
