// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/deployer.h"

#include <spdlog/spdlog.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "control-plane/api/records.h"
#include "control-plane/api/version_spec.h"
#include "control-plane/limits.h"
#include "control-plane/routing/describe.h"

namespace hearth::control {

using google::longrunning::Operation;
using hearth::v1::CreateVersionMetadata;
using hearth::v1::CreateVersionRequest;
using hearth::v1::Version;

namespace {

struct StageSpan {
  int begin;
  int end;
};
// What part of the whole a stage is, in percent; measured deploys spend most of it booting.
StageSpan SpanOf(CreateVersionMetadata::Stage stage) {
  switch (stage) {
    case CreateVersionMetadata::BUILDING_IMAGE:
      return {5, 30};
    case CreateVersionMetadata::BOOTING:
      return {30, 55};
    case CreateVersionMetadata::INITIALIZING:
      return {55, 75};
    case CreateVersionMetadata::SNAPSHOTTING:
      return {75, 95};
    case CreateVersionMetadata::PUBLISHING:
      return {95, 100};
    default:
      return {0, 5};
  }
}

absl::Status TooManyDeploys(size_t most) {
  return WithRetry(WithQuota(ApiError(absl::StatusCode::kResourceExhausted, "TOO_MANY_DEPLOYS",
                                      "too many deployments are waiting; try again later"),
                             "deploys", absl::StrCat("at most ", most, " may wait")),
                   absl::Seconds(5));
}

int64_t NumberOf(const std::string& version_name) {
  int64_t number = 0;
  return absl::SimpleAtoi(IdOf(version_name), &number) ? number : 0;
}

// Who was told to stop has not failed.
absl::Status Blame(const absl::Status& status, absl::string_view reason) {
  return absl::IsCancelled(status) ? status : WithReason(status, reason);
}

// Gives `live` to the version unless it has it, or one with a higher number has.
absl::Status MoveLive(MetadataTransaction& t, const Version& version, UuidGenerator* uuids) {
  const std::string function_name = ParentOf(version.name());
  const absl::Time now = absl::Now();
  hearth::v1::Alias alias;
  auto existing = Load<hearth::v1::Alias>(t, Kind::kAlias, function_name + "/aliases/live");
  if (existing.ok()) {
    if (NumberOf(existing->version()) >= NumberOf(version.name())) return absl::OkStatus();
    alias = *std::move(existing);
  } else if (absl::IsNotFound(existing.status())) {
    alias.set_name(function_name + "/aliases/live");
    alias.set_uid(uuids->Next());
    *alias.mutable_create_time() = ToTimestamp(now);
  } else {
    return existing.status();
  }
  const bool is_new = alias.version().empty();
  alias.set_version(version.name());
  Touch(&alias, now);
  const Record record = RecordOf(Kind::kAlias, alias, version.name());
  RETURN_IF_ERROR(is_new ? t.Insert(Kind::kAlias, record) : t.Update(Kind::kAlias, record));
  ASSIGN_OR_RETURN(auto function, Load<hearth::v1::Function>(t, Kind::kFunction, function_name));
  function.set_live_version(version.name());
  Touch(&function, now);
  return t.Update(Kind::kFunction, RecordOf(Kind::kFunction, function));
}

}  // namespace

struct Deployer::Job {
  Version version;
  bool keep_live = false;
  Operation operation;
  Cancellation cancellation;
  CreateVersionMetadata metadata;
  absl::Time stage_start;
};

Deployer::Deployer(const Parts& parts)
    : parts_(parts), workers_(limits::kMaxDeploysAtOnce, parts.max_queued) {}

Deployer::~Deployer() { parts_.operations->CancelAll(); }

absl::StatusOr<Operation> Deployer::CreateVersion(const CreateVersionRequest& request) {
  RETURN_IF_ERROR(ParseName(kFunctionPattern, request.parent(), "parent").status());
  if (request.version().description().size() > limits::kMaxDescriptionBytes) {
    return InvalidField("version.description",
                        absl::StrCat("at most ", limits::kMaxDescriptionBytes, " bytes"));
  }
  RETURN_IF_ERROR(CheckVersionSpec(request.version().spec(), *parts_.images,
                                   parts_.node->memory_capacity_mib()));
  auto job = std::make_shared<Job>();
  // Of a new deployment. Taken before anything is kept: what is refused must leave no trace, so
  // that it can be asked for again.
  absl::optional<WorkerPool::Place> place;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) {
    return Replayed(t, "CreateVersion", request, &job->operation, [&] {
      place = workers_.Reserve();
      return place.has_value() ? Admit(t, request, job.get()) : TooManyDeploys(parts_.max_queued);
    });
  }));
  if (!place.has_value()) {
    // As it is by now.
    auto current = parts_.operations->Get(job->operation.name());
    return current.ok() ? *current : job->operation;
  }
  const Operation operation = job->operation;
  parts_.operations->Start(operation, job->version.name(), job->cancellation);
  std::move(*place).Submit([this, job] { Run(job); });
  return operation;
}

absl::Status Deployer::Admit(MetadataTransaction& t, const CreateVersionRequest& request,
                             Job* job) {
  const std::string tenant = ParentOf(request.parent());
  ASSIGN_OR_RETURN(auto function, Load<hearth::v1::Function>(t, Kind::kFunction, request.parent()));
  const auto& spec = request.version().spec();
  if (ParentOf(spec.artifact()) != tenant) {
    return InvalidField("version.spec.artifact", absl::StrCat("must be an artifact of ", tenant));
  }
  RETURN_IF_ERROR(Load<hearth::v1::Artifact>(t, Kind::kArtifact, spec.artifact()).status());
  const absl::Time now = absl::Now();
  // By name, and never reset: a function that is deleted and made again does not reuse numbers, so
  // no version's name ever means two things.
  ASSIGN_OR_RETURN(const int64_t number, t.NextNumber(request.parent()));
  Version& version = job->version;
  version.set_name(absl::StrCat(request.parent(), "/versions/", number));
  version.set_uid(parts_.uuids->Next());
  *version.mutable_create_time() = ToTimestamp(now);
  *version.mutable_spec() = spec;
  version.set_state(Version::CREATING);
  version.set_description(request.version().description());
  RETURN_IF_ERROR(t.Insert(Kind::kVersion, RecordOf(Kind::kVersion, version)));
  function.set_latest_version(version.name());
  Touch(&function, now);
  RETURN_IF_ERROR(t.Update(Kind::kFunction, RecordOf(Kind::kFunction, function)));

  job->keep_live = request.keep_live();
  job->metadata.set_version(version.name());
  job->metadata.set_stage(CreateVersionMetadata::QUEUED);
  *job->metadata.mutable_start_time() = ToTimestamp(now);
  job->stage_start = now;
  job->operation.set_name(absl::StrCat(tenant, "/operations/", parts_.uuids->Next()));
  job->operation.mutable_metadata()->PackFrom(job->metadata);
  return Operations::Insert(t, job->operation);
}

void Deployer::Enter(Job& job, CreateVersionMetadata::Stage stage) {
  if (job.metadata.stage() == stage) return;
  const absl::Time now = absl::Now();
  auto* finished = job.metadata.add_finished();
  finished->set_stage(job.metadata.stage());
  *finished->mutable_duration() = ToDuration(now - job.stage_start);
  job.metadata.set_stage(stage);
  job.stage_start = now;
  Report(job, 0);
}

void Deployer::Report(Job& job, int percent) {
  const StageSpan span = SpanOf(job.metadata.stage());
  const int whole = span.begin + (span.end - span.begin) * std::clamp(percent, 0, 100) / 100;
  // Never back: a boot that is tried again begins at its 0 again.
  job.metadata.set_percent(std::max(whole, job.metadata.percent()));
  parts_.operations->SetMetadata(job.operation.name(), job.metadata);
}

void Deployer::Run(const std::shared_ptr<Job>& job) {
  const absl::Status status = Make(*job);
  if (!status.ok()) Fail(*job, status);
  // Of its code disk, if it failed, or was deleted as soon as it was there: Make() still held the
  // disk then, and a collection passed it over.
  parts_.garbage->Wake();
}

absl::Status Deployer::Make(Job& job) {
  if (job.cancellation.cancelled()) return absl::CancelledError("cancelled");
  Enter(job, CreateVersionMetadata::BUILDING_IMAGE);
  const std::string digest =
      absl::StrReplaceAll(IdOf(job.version.spec().artifact()), {{"sha256-", "sha256:"}});
  auto code = parts_.disks->Build(parts_.artifacts->PathOf(digest), job.cancellation);
  if (absl::IsInvalidArgument(code.status())) {
    return ApiError(absl::StatusCode::kInvalidArgument, "ARTIFACT_INVALID", code.status().message(),
                    {{"artifact", job.version.spec().artifact()}});
  }
  RETURN_IF_ERROR(Blame(code.status(), "IMAGE_BUILD_FAILED"));
  job.version.set_code_digest(code->digest);
  ASSIGN_OR_RETURN(const VersionPtr description,
                   DescribeVersion(job.version, *parts_.images, *code));
  job.version.set_runtime_digest(description->runtime.image.digest);
  Enter(job, CreateVersionMetadata::BOOTING);
  auto prepared = parts_.node->Prepare(
      description,
      [this, &job](PrepareStage stage, int percent) {
        if (stage == PrepareStage::kInitialise) Enter(job, CreateVersionMetadata::INITIALIZING);
        if (stage == PrepareStage::kSnapshot) Enter(job, CreateVersionMetadata::SNAPSHOTTING);
        Report(job, percent);
      },
      job.cancellation);
  if (!prepared.ok()) {
    const bool own = prepared.status().GetPayload(kFunctionErrorPayload).has_value();
    return Blame(prepared.status(), own ? "FUNCTION_INIT_FAILED" : "BOOT_FAILED");
  }
  Enter(job, CreateVersionMetadata::PUBLISHING);
  absl::Status published = Publish(job, *prepared);
  // What Prepare left, an instance or a snapshot, must not outlive its version.
  if (!published.ok()) {
    parts_.node->Drain(job.version.name(), true).IgnoreError();
    parts_.node->ForgetSnapshots(job.version.name());
  }
  return published;
}

absl::Status Deployer::Publish(Job& job, const PreparedVersion& prepared) {
  *job.version.mutable_init_duration() = ToDuration(prepared.init);
  job.version.set_state(Version::READY);
  absl::Status status = parts_.operations->Finish(
      job.operation.name(), [&](MetadataTransaction& t, Operation* operation) -> absl::Status {
        const absl::Status updated =
            t.Update(Kind::kVersion, RecordOf(Kind::kVersion, job.version));
        if (absl::IsNotFound(updated)) {
          return absl::CancelledError("the function was deleted meanwhile");
        }
        RETURN_IF_ERROR(updated);
        if (!job.keep_live) RETURN_IF_ERROR(MoveLive(t, job.version, parts_.uuids));
        // The version is there once this is: PUBLISHING takes what the transaction takes.
        auto* finished = job.metadata.add_finished();
        finished->set_stage(CreateVersionMetadata::PUBLISHING);
        *finished->mutable_duration() = ToDuration(absl::Now() - job.stage_start);
        job.metadata.set_percent(100);
        operation->mutable_metadata()->PackFrom(job.metadata);
        Version told = job.version;  // With what is true now, and not kept.
        HideSecrets(&told);
        told.set_snapshot(prepared.snapshot);
        operation->mutable_response()->PackFrom(told);
        return absl::OkStatus();
      });
  parts_.router->Invalidate(ParentOf(job.version.name()));
  if (status.ok()) spdlog::info("version {} is ready", job.version.name());
  return status;
}

void Deployer::Fail(Job& job, const absl::Status& error) {
  absl::Status told = WithReason(error, absl::IsCancelled(error) ? "CANCELLED" : "DEPLOY_FAILED",
                                 {{"version", job.version.name()}});
  spdlog::info("version {} failed: {}", job.version.name(), std::string(told.message()));
  job.version.set_state(Version::FAILED);
  parts_.node->ForgetSnapshots(job.version.name());
  const auto tell_version = [version = job.version](MetadataTransaction& t) {
    const absl::Status updated = t.Update(Kind::kVersion, RecordOf(Kind::kVersion, version));
    return absl::IsNotFound(updated) ? absl::OkStatus() : updated;
  };
  const absl::Status kept = parts_.operations->Finish(
      job.operation.name(), [&](MetadataTransaction& t, Operation* operation) {
        *operation->mutable_error() = ToRpcStatus(told);
        return tell_version(t);
      });
  if (!kept.ok()) {
    spdlog::error("cannot keep that {} failed: {}", job.version.name(),
                  std::string(kept.message()));
    parts_.operations->Abandon(job.operation.name(), told, tell_version);
  }
}

}  // namespace hearth::control
