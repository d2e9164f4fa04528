// SPDX-License-Identifier: Apache-2.0
// The services whose calls wait: logs that are followed, operations that are waited for.
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "control-plane/api/fields.h"
#include "control-plane/api/grpc_support.h"
#include "control-plane/api/names.h"
#include "control-plane/api/services.h"
#include "control-plane/limits.h"
#include "google/longrunning/operations.grpc.pb.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::control {
namespace {

using google::longrunning::Operation;
using hearth::v1::TailLogsRequest;
using hearth::v1::TailLogsResponse;

// Runs on a thread of the pool, which waits for lines and for the client by turns.
class TailCall final : public grpc::ServerWriteReactor<TailLogsResponse> {
 public:
  TailCall(const ServiceParts& parts, const TailLogsRequest* request)
      : parts_(parts), request_(*request) {
    if (!parts.followers->TrySubmit([this] { Run(); })) {
      Finish(ToGrpc(TooManyCalls("TOO_MANY_FOLLOWERS", parts.limits->followers)));
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    written_ = true;
    broken_ = !ok;
  }
  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  void Run() { Finish(ToGrpc(Tail())); }

  absl::Status Tail() {
    const auto function = ParseName(kFunctionPattern, request_.parent(), "parent");
    if (!function.ok()) return function.status();
    if (request_.tail() < 0) return InvalidField("tail", "must not be negative");
    if (!request_.invocation().empty()) {
      const auto name = ParseName(kInvocationPattern, request_.invocation(), "invocation");
      if (!name.ok()) return name.status();
    }
    const absl::Status exists = parts_.catalog->RequireFunction(request_.parent());
    if (!exists.ok()) return exists;
    auto reader = parts_.logs->Read(
        request_.parent(), {request_.follow(), request_.invocation(),
                            static_cast<size_t>(request_.tail()), request_.after_cursor()});
    if (absl::IsInvalidArgument(reader.status())) {
      return InvalidField("after_cursor", reader.status().message());
    }
    if (!reader.ok()) return reader.status();
    while (true) {
      auto entries = (*reader)->Next(cancellation_);
      if (cancellation_.cancelled()) return absl::CancelledError("the client left");
      if (entries.empty()) return absl::OkStatus();
      TailLogsResponse response;
      for (auto& entry : entries) *response.add_entries() = std::move(entry);
      if (!Write(response)) return absl::CancelledError("the client left");
    }
  }

  bool Write(const TailLogsResponse& response) {
    {
      absl::MutexLock lock(&mutex_);
      written_ = false;
    }
    StartWrite(&response);
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&written_));
    return !broken_;
  }

  const ServiceParts& parts_;
  const TailLogsRequest request_;
  Cancellation cancellation_;
  absl::Mutex mutex_;
  bool written_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

class LogServiceImpl final : public hearth::v1::LogService::CallbackService {
 public:
  explicit LogServiceImpl(const ServiceParts& parts) : parts_(parts) {}
  grpc::ServerWriteReactor<TailLogsResponse>* TailLogs(grpc::CallbackServerContext*,
                                                       const TailLogsRequest* request) override {
    return new TailCall(parts_, request);
  }

 private:
  const ServiceParts parts_;
};

using OperationsBase = google::longrunning::Operations::WithCallbackMethod_WaitOperation<
    google::longrunning::Operations::Service>;

class OperationsServiceImpl final : public OperationsBase {
 public:
  explicit OperationsServiceImpl(const ServiceParts& parts) : parts_(parts) {}

  grpc::Status ListOperations(grpc::ServerContext*,
                              const google::longrunning::ListOperationsRequest* request,
                              google::longrunning::ListOperationsResponse* response) override {
    return Answer(parts_.operations->List(*request), response);
  }
  grpc::Status GetOperation(grpc::ServerContext*,
                            const google::longrunning::GetOperationRequest* request,
                            Operation* response) override {
    return Answer(parts_.operations->Get(request->name()), response);
  }
  grpc::Status DeleteOperation(grpc::ServerContext*,
                               const google::longrunning::DeleteOperationRequest* request,
                               google::protobuf::Empty*) override {
    return ToGrpc(parts_.operations->Delete(request->name()));
  }
  grpc::Status CancelOperation(grpc::ServerContext*,
                               const google::longrunning::CancelOperationRequest* request,
                               google::protobuf::Empty*) override {
    return ToGrpc(parts_.operations->Cancel(request->name()));
  }
  grpc::ServerUnaryReactor* WaitOperation(grpc::CallbackServerContext* context,
                                          const google::longrunning::WaitOperationRequest* request,
                                          Operation* response) override {
    absl::Time deadline = DeadlineOf(*context);
    if (request->has_timeout()) {
      deadline = std::min(deadline, absl::Now() + FromDuration(request->timeout()));
    }
    return new PooledCall<Operation>(
        parts_.waits, response,
        [name = request->name(), deadline,
         operations = parts_.operations](const Cancellation& cancellation) {
          return operations->Wait(name, deadline, cancellation);
        },
        TooManyCalls("TOO_MANY_WAITS", parts_.limits->waits));
  }

 private:
  const ServiceParts parts_;
};

}  // namespace

void AddLogServices(const ServiceParts& parts, Services* services) {
  services->push_back(std::make_unique<LogServiceImpl>(parts));
  services->push_back(std::make_unique<OperationsServiceImpl>(parts));
}

}  // namespace hearth::control
