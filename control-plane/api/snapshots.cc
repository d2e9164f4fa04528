// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/snapshots.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "control-plane/api/records.h"
#include "control-plane/limits.h"

namespace hearth::control {

using google::longrunning::Operation;
using hearth::v1::RebuildSnapshotMetadata;
using hearth::v1::Snapshot;

namespace {

RebuildSnapshotMetadata Progress(RebuildSnapshotMetadata metadata, PrepareStage stage,
                                 int percent) {
  // What part of the whole each stage is.
  switch (stage) {
    case PrepareStage::kBoot:
      metadata.set_stage(hearth::v1::CreateVersionMetadata::BOOTING);
      metadata.set_percent(percent * 40 / 100);
      break;
    case PrepareStage::kInitialise:
      metadata.set_stage(hearth::v1::CreateVersionMetadata::INITIALIZING);
      metadata.set_percent(40 + percent * 30 / 100);
      break;
    case PrepareStage::kSnapshot:
      metadata.set_stage(hearth::v1::CreateVersionMetadata::SNAPSHOTTING);
      metadata.set_percent(70 + percent * 30 / 100);
      break;
  }
  return metadata;
}

absl::Status TooManyRebuilds(size_t most) {
  return WithRetry(WithQuota(ApiError(absl::StatusCode::kResourceExhausted, "TOO_MANY_REBUILDS",
                                      "too many snapshots wait to be made; try again later"),
                             "rebuilds", absl::StrCat("at most ", most, " may wait")),
                   absl::Seconds(5));
}

}  // namespace

struct Snapshots::Job {
  VersionPtr version;
  Operation operation;
  Cancellation cancellation;
  RebuildSnapshotMetadata metadata;
};

Snapshots::Snapshots(const Parts& parts)
    : parts_(parts),
      replays_(parts.metadata),
      workers_(limits::kMaxRebuildsAtOnce, parts.max_rebuilds_queued) {}

Snapshots::~Snapshots() { parts_.operations->CancelAll(); }

absl::StatusOr<hearth::v1::ListSnapshotsResponse> Snapshots::List(
    const hearth::v1::ListSnapshotsRequest& request) {
  ASSIGN_OR_RETURN(const auto parts,
                   ParseName(kVersionPattern, request.parent(), "parent", /*wildcards=*/true));
  if (!absl::StrContains(request.parent(), "/-")) {
    RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) {
      return Load<hearth::v1::Version>(t, Kind::kVersion, request.parent()).status();
    }));
  }
  const std::string scope = absl::StrCat("snapshots ", request.parent());
  ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token(), scope));
  std::vector<Snapshot> snapshots = parts_.node->ListSnapshots();
  std::sort(snapshots.begin(), snapshots.end(),
            [](const Snapshot& a, const Snapshot& b) { return a.name() < b.name(); });
  hearth::v1::ListSnapshotsResponse response;
  for (Snapshot& snapshot : snapshots) {
    const auto own = ParseName(kVersionPattern, snapshot.version(), "version");
    bool wanted = own.ok() && snapshot.name() > page.after;
    for (size_t i = 0; wanted && i < parts.size(); ++i) {
      wanted = parts[i] == "-" || parts[i] == (*own)[i];
    }
    if (!wanted) continue;
    if (response.snapshots_size() == page.size) {
      response.set_next_page_token(
          MakePageToken(scope, response.snapshots(response.snapshots_size() - 1).name()));
      break;
    }
    *response.add_snapshots() = std::move(snapshot);
  }
  return response;
}

absl::StatusOr<Snapshot> Snapshots::Get(const hearth::v1::GetSnapshotRequest& request) {
  RETURN_IF_ERROR(ParseName(kSnapshotPattern, request.name(), "name").status());
  for (Snapshot& snapshot : parts_.node->ListSnapshots()) {
    if (snapshot.name() == request.name()) return std::move(snapshot);
  }
  return NotFound(request.name());
}

absl::StatusOr<google::protobuf::Empty> Snapshots::Delete(
    const hearth::v1::DeleteSnapshotRequest& request) {
  RETURN_IF_ERROR(ParseName(kSnapshotPattern, request.name(), "name").status());
  google::protobuf::Empty empty;
  RETURN_IF_ERROR(replays_.Once("DeleteSnapshot", request.request_id(), request, &empty, [&] {
    const absl::Status deleted = parts_.node->DeleteSnapshot(request.name());
    return absl::IsNotFound(deleted) ? NotFound(request.name()) : deleted;
  }));
  return empty;
}

absl::StatusOr<Operation> Snapshots::Rebuild(const hearth::v1::RebuildSnapshotRequest& request) {
  RETURN_IF_ERROR(ParseName(kVersionPattern, request.parent(), "parent").status());
  auto job = std::make_shared<Job>();
  ASSIGN_OR_RETURN(const Route route, parts_.router->Resolve(request.parent()));
  job->version = route.version;
  absl::optional<WorkerPool::Place> place;  // As in Deployer::CreateVersion().
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "RebuildSnapshot", request, &job->operation, [&] {
      place = workers_.Reserve();
      if (!place.has_value()) return TooManyRebuilds(parts_.max_rebuilds_queued);
      job->metadata.set_version(request.parent());
      *job->metadata.mutable_start_time() = ToTimestamp(absl::Now());
      job->operation.set_name(
          absl::StrCat(ParentOf(ParentOf(request.parent())), "/operations/", parts_.uuids->Next()));
      job->operation.mutable_metadata()->PackFrom(job->metadata);
      return Operations::Insert(t, job->operation);
    });
  }));
  const Operation operation = job->operation;
  if (!place.has_value()) {
    // As it is by now.
    auto current = parts_.operations->Get(operation.name());
    return current.ok() ? *current : operation;
  }
  parts_.operations->Start(operation, request.parent(), job->cancellation);
  std::move(*place).Submit([this, job] { Run(job); });
  return operation;
}

void Snapshots::Run(const std::shared_ptr<Job>& job) {
  absl::StatusOr<Snapshot> built = absl::CancelledError("cancelled");
  if (!job->cancellation.cancelled()) {
    built = parts_.node->RebuildSnapshot(
        job->version,
        [&](PrepareStage stage, int percent) {
          parts_.operations->SetMetadata(job->operation.name(),
                                         Progress(job->metadata, stage, percent));
        },
        job->cancellation);
  }
  absl::Status told;
  if (!built.ok()) {
    const bool own = built.status().GetPayload(kFunctionErrorPayload).has_value();
    told = WithReason(built.status(),
                      absl::IsCancelled(built.status()) ? "CANCELLED"
                      : own                             ? "FUNCTION_INIT_FAILED"
                                                        : "SNAPSHOT_FAILED",
                      {{"version", job->version->name}});
  }
  const absl::Status kept = parts_.operations->Finish(
      job->operation.name(), [&](MetadataTransaction&, Operation* operation) {
        if (built.ok()) {
          operation->mutable_response()->PackFrom(*built);
        } else {
          *operation->mutable_error() = ToRpcStatus(told);
        }
        return absl::OkStatus();
      });
  if (kept.ok()) return;
  spdlog::error("cannot keep how a rebuild ended: {}", std::string(kept.message()));
  parts_.operations->Abandon(job->operation.name(), kept,
                             [](MetadataTransaction&) { return absl::OkStatus(); });
}

absl::StatusOr<std::vector<hearth::v1::Version>> Snapshots::ReadyVersions() {
  std::vector<hearth::v1::Version> ready;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto records, t.All(Kind::kVersion));
    for (const Record& record : records) {
      ASSIGN_OR_RETURN(auto version, Load<hearth::v1::Version>(t, Kind::kVersion, record.name));
      if (version.state() == hearth::v1::Version::READY) ready.push_back(std::move(version));
    }
    return absl::OkStatus();
  }));
  return ready;
}

absl::Status Snapshots::Retain() {
  ASSIGN_OR_RETURN(const auto versions, ReadyVersions());
  std::set<std::string> uids;
  for (const hearth::v1::Version& version : versions) uids.insert(version.uid());
  parts_.node->RetainSnapshots(uids);
  return absl::OkStatus();
}

absl::Status Snapshots::RefreshAll() {
  ASSIGN_OR_RETURN(const auto versions, ReadyVersions());
  for (const hearth::v1::Version& version : versions) {
    const absl::StatusOr<Route> route = parts_.router->Resolve(version.name());
    if (route.ok()) {
      parts_.node->Refresh(route->version);
    } else if (!absl::IsNotFound(route.status())) {
      // It cannot be invoked either, and says so then.
      spdlog::warn("{} cannot be refreshed: {}", version.name(),
                   std::string(route.status().message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace hearth::control
