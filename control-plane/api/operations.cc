// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/operations.h"

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "control-plane/api/records.h"
#include "control-plane/limits.h"
#include "hearth/v1/resources.pb.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {
namespace {

// At once, so that one transaction stays short whatever an earlier hearthd has left.
constexpr int kMaxTrimmed = 1000;

bool IsAtOrBelow(const std::string& subject, const std::string& parent) {
  return parent.empty() || subject == parent ||
         absl::StartsWith(subject, absl::StrCat(parent, "/"));
}

}  // namespace

absl::Status Operations::Recover() {
  return metadata_->Write([](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto records, t.All(Kind::kOperation));
    for (const Record& record : records) {
      ASSIGN_OR_RETURN(auto operation, Load<Operation>(t, Kind::kOperation, record.name));
      if (operation.done()) continue;
      operation.set_done(true);
      *operation.mutable_error() =
          ToRpcStatus(ApiError(absl::StatusCode::kAborted, "HEARTHD_RESTARTED",
                               "hearthd was restarted while this was under way; ask for it again"));
      RETURN_IF_ERROR(t.Update(Kind::kOperation, RecordOf(Kind::kOperation, operation)));
    }
    ASSIGN_OR_RETURN(const auto versions, t.All(Kind::kVersion));
    for (const Record& record : versions) {
      ASSIGN_OR_RETURN(auto version, Load<hearth::v1::Version>(t, Kind::kVersion, record.name));
      if (version.state() != hearth::v1::Version::CREATING) continue;
      version.set_state(hearth::v1::Version::FAILED);
      RETURN_IF_ERROR(t.Update(Kind::kVersion, RecordOf(Kind::kVersion, version)));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<Operations::Operation> Operations::Get(const std::string& name) {
  RETURN_IF_ERROR(ParseName(kOperationPattern, name, "name").status());
  {
    absl::MutexLock lock(&mutex_);
    const auto found = active_.find(name);
    if (found != active_.end()) return found->second.operation;
  }
  Operation operation;
  RETURN_IF_ERROR(metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(operation, Load<Operation>(t, Kind::kOperation, name));
    return absl::OkStatus();
  }));
  return operation;
}

absl::StatusOr<google::longrunning::ListOperationsResponse> Operations::List(
    const google::longrunning::ListOperationsRequest& request) {
  // Google's definition lets the name end with the collection's id.
  std::string parent(absl::StripSuffix(request.name(), "/operations"));
  RETURN_IF_ERROR(ParseName(kTenantPattern, parent, "name").status());
  if (!request.filter().empty()) return InvalidField("filter", "is not supported");
  google::longrunning::ListOperationsResponse response;
  RETURN_IF_ERROR(metadata_->Read([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(Load<hearth::v1::Tenant>(t, Kind::kTenant, parent).status());
    return ListPage(t, Kind::kOperation, parent, request.page_size(), request.page_token(), true,
                    response.mutable_operations(), response.mutable_next_page_token());
  }));
  absl::MutexLock lock(&mutex_);
  for (Operation& operation : *response.mutable_operations()) {
    const auto found = active_.find(operation.name());
    if (found != active_.end()) operation = found->second.operation;
  }
  return response;
}

absl::Status Operations::Cancel(const std::string& name) {
  RETURN_IF_ERROR(Get(name).status());
  Cancellation cancellation;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = active_.find(name);
    if (found == active_.end()) return absl::OkStatus();
    cancellation = found->second.cancellation;
  }
  cancellation.Cancel();
  return absl::OkStatus();
}

absl::Status Operations::Delete(const std::string& name) {
  ASSIGN_OR_RETURN(const Operation operation, Get(name));
  if (!operation.done()) {
    return ApiError(absl::StatusCode::kFailedPrecondition, "OPERATION_UNDER_WAY",
                    absl::StrCat(name, " has not ended; cancel it first"), {{"operation", name}});
  }
  RETURN_IF_ERROR(metadata_->Write([&](MetadataTransaction& t) -> absl::Status {
    const absl::Status status = t.Erase(Kind::kOperation, name);
    return absl::IsNotFound(status) ? NotFound(name) : status;
  }));
  absl::MutexLock lock(&mutex_);
  active_.erase(name);  // An abandoned one.
  return absl::OkStatus();
}

absl::StatusOr<Operations::Operation> Operations::Wait(const std::string& name, absl::Time deadline,
                                                       const Cancellation& cancellation) {
  RETURN_IF_ERROR(Get(name).status());
  {
    bool cancelled = false;
    const auto registration = cancellation.OnCancel([&] {
      absl::MutexLock lock(&mutex_);
      cancelled = true;
    });
    absl::MutexLock lock(&mutex_);
    const auto ended = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const auto found = active_.find(name);
      return cancelled || found == active_.end() || found->second.operation.done();
    };
    mutex_.AwaitWithDeadline(absl::Condition(&ended), deadline);
    if (cancelled) return absl::CancelledError("the client left");
  }
  return Get(name);
}

absl::Status Operations::Insert(MetadataTransaction& t, const Operation& operation) {
  RETURN_IF_ERROR(t.Insert(Kind::kOperation, RecordOf(Kind::kOperation, operation)));
  ASSIGN_OR_RETURN(const auto surplus, t.Surplus(Kind::kOperation, ParentOf(operation.name()),
                                                 limits::kMaxOperations, kMaxTrimmed));
  for (const Record& record : surplus) {
    ASSIGN_OR_RETURN(const auto old, Load<Operation>(t, Kind::kOperation, record.name));
    if (old.done()) RETURN_IF_ERROR(t.Erase(Kind::kOperation, old.name()));
  }
  return absl::OkStatus();
}

void Operations::Start(const Operation& operation, const std::string& subject,
                       const Cancellation& cancellation) {
  {
    absl::MutexLock lock(&mutex_);
    active_[operation.name()] = {operation, subject, cancellation, nullptr};
  }
  SaveAbandoned();  // This one could be written, so those may be by now.
}

void Operations::SetMetadata(const std::string& name, const google::protobuf::Message& metadata) {
  absl::MutexLock lock(&mutex_);
  const auto found = active_.find(name);
  if (found != active_.end()) found->second.operation.mutable_metadata()->PackFrom(metadata);
}

absl::Status Operations::Finish(
    const std::string& name,
    absl::FunctionRef<absl::Status(MetadataTransaction&, Operation*)> body) {
  ASSIGN_OR_RETURN(Operation operation, Get(name));
  const absl::Status status = metadata_->Write([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(body(t, &operation));
    operation.set_done(true);
    const absl::Status updated = t.Update(Kind::kOperation, RecordOf(Kind::kOperation, operation));
    // Deleted with its tenant: nobody is left to be told.
    return absl::IsNotFound(updated) ? absl::OkStatus() : updated;
  });
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    active_.erase(name);
  }
  return status;
}

void Operations::Abandon(const std::string& name, const absl::Status& error,
                         std::function<absl::Status(MetadataTransaction&)> also) {
  absl::MutexLock lock(&mutex_);
  const auto found = active_.find(name);
  if (found == active_.end()) return;
  found->second.operation.set_done(true);
  *found->second.operation.mutable_error() = ToRpcStatus(error);
  found->second.also = std::move(also);
}

void Operations::SaveAbandoned() {
  std::vector<Active> abandoned;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, active] : active_) {
      if (active.operation.done()) abandoned.push_back(active);
    }
  }
  for (const Active& active : abandoned) {
    const absl::Status status = metadata_->Write([&](MetadataTransaction& t) -> absl::Status {
      RETURN_IF_ERROR(active.also(t));
      const absl::Status updated =
          t.Update(Kind::kOperation, RecordOf(Kind::kOperation, active.operation));
      return absl::IsNotFound(updated) ? absl::OkStatus() : updated;
    });
    if (!status.ok()) return;
    absl::MutexLock lock(&mutex_);
    active_.erase(active.operation.name());
  }
}

bool Operations::AnyBelow(const std::string& parent) {
  for (const auto& [name, active] : active_) {
    if (active.operation.done()) continue;
    if (IsAtOrBelow(active.subject, parent)) return true;
  }
  return false;
}

void Operations::CancelBelow(const std::string& parent) {
  std::vector<Cancellation> cancellations;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, active] : active_) {
      if (IsAtOrBelow(active.subject, parent)) {
        cancellations.push_back(active.cancellation);
      }
    }
  }
  for (Cancellation& cancellation : cancellations) cancellation.Cancel();
  absl::MutexLock lock(&mutex_);
  const auto ended = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !AnyBelow(parent); };
  mutex_.Await(absl::Condition(&ended));
}

}  // namespace hearth::control
