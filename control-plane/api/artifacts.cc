// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/artifacts.h"

#include "absl/time/clock.h"
#include "control-plane/api/records.h"
#include "control-plane/images/digest.h"
#include "control-plane/limits.h"

namespace hearth::control {

using hearth::v1::Artifact;

absl::StatusOr<Artifacts::Session> Artifacts::Begin(
    const hearth::v1::UploadArtifactRequest::Header& header) {
  FieldViolations violations;
  violations.Add(ParseName(kTenantPattern, header.parent(), "header.parent").status());
  if (!header.expected_digest().empty() && !IsDigest(header.expected_digest())) {
    violations.Add("header.expected_digest", "must be \"sha256:\" and 64 lower-case hex digits");
  }
  if (header.size_bytes() < 0 || header.size_bytes() > limits::kMaxArtifactBytes) {
    violations.Add("header.size_bytes", absl::StrCat("an archive may have at most ",
                                                     limits::kMaxArtifactBytes, " bytes"));
  }
  RETURN_IF_ERROR(violations.ToStatus());
  RETURN_IF_ERROR(metadata_->Read([&](MetadataTransaction& t) {
    return Load<hearth::v1::Tenant>(t, Kind::kTenant, header.parent()).status();
  }));
  Session session;
  session.artifacts_ = this;
  session.header_ = header;
  ASSIGN_OR_RETURN(session.upload_, store_->Begin());
  return session;
}

absl::Status Artifacts::Session::Write(const std::string& chunk) {
  if (chunk.size() > limits::kMaxChunkBytes) {
    return InvalidField("chunk", absl::StrCat("at most ", limits::kMaxChunkBytes, " bytes"));
  }
  const absl::Status status = upload_->Write(chunk);
  if (absl::IsInvalidArgument(status)) return InvalidField("chunk", status.message());
  return absl::IsResourceExhausted(status) ? WithReason(status, "DISK_FULL") : status;
}

absl::StatusOr<Artifact> Artifacts::Session::Commit() {
  const auto digest = upload_->Commit(header_.expected_digest(), header_.size_bytes());
  if (absl::IsInvalidArgument(digest.status())) {
    return WithReason(digest.status(), "ARTIFACT_MISMATCH",
                      {{"expected_digest", header_.expected_digest()},
                       {"expected_bytes", absl::StrCat(header_.size_bytes())},
                       {"received_bytes", absl::StrCat(upload_->size_bytes())}});
  }
  RETURN_IF_ERROR(absl::IsResourceExhausted(digest.status())
                      ? WithReason(digest.status(), "DISK_FULL")
                      : digest.status());
  Artifact artifact;
  artifact.set_name(absl::StrCat(header_.parent(), "/artifacts/sha256-", DigestHex(*digest)));
  artifact.set_digest(*digest);
  artifact.set_size_bytes(upload_->size_bytes());
  *artifact.mutable_create_time() = ToTimestamp(absl::Now());
  RETURN_IF_ERROR(artifacts_->metadata_->Write([&](MetadataTransaction& t) -> absl::Status {
    auto existing = Load<Artifact>(t, Kind::kArtifact, artifact.name());
    if (existing.ok()) {
      artifact = *std::move(existing);
      return absl::OkStatus();
    }
    const absl::Status status = t.Insert(Kind::kArtifact, RecordOf(Kind::kArtifact, artifact));
    return absl::IsFailedPrecondition(status) ? NotFound(header_.parent()) : status;
  }));
  return artifact;
}

absl::StatusOr<Artifact> Artifacts::Get(const hearth::v1::GetArtifactRequest& request) {
  RETURN_IF_ERROR(ParseName(kArtifactPattern, request.name(), "name").status());
  Artifact artifact;
  RETURN_IF_ERROR(metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(artifact, Load<Artifact>(t, Kind::kArtifact, request.name()));
    return absl::OkStatus();
  }));
  return artifact;
}

}  // namespace hearth::control
