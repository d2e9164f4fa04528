// SPDX-License-Identifier: Apache-2.0
// Between gRPC and what is below it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "control-plane/api/errors.h"
#include "control-plane/api/worker_pool.h"
#include "control-plane/node/cancellation.h"

namespace hearth::control {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status rpc = ToTrailers(status);
  return grpc::Status(static_cast<grpc::StatusCode>(rpc.code()), rpc.message(),
                      rpc.SerializeAsString());
}

// The end of a synchronous method.
template <class Response>
grpc::Status Answer(absl::StatusOr<Response> result, Response* response) {
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

inline absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

inline absl::Status TooManyCalls(absl::string_view reason, size_t most) {
  return WithRetry(WithQuota(ApiError(absl::StatusCode::kResourceExhausted, reason,
                                      absl::StrCat("at most ", most, " of these calls at once; ",
                                                   "try again later")),
                             "hearthd", absl::StrCat("at most ", most, " at once")),
                   absl::Seconds(1));
}

// A unary call that may block for long: runs on a pool, and learns when the client leaves. Deletes
// itself when gRPC is done with it.
template <class Response>
class PooledCall final : public grpc::ServerUnaryReactor {
 public:
  using Work = std::function<absl::StatusOr<Response>(const Cancellation&)>;

  // `full` is the answer when the pool has no room.
  PooledCall(WorkerPool* pool, Response* response, Work work, const absl::Status& full)
      : response_(response), work_(std::move(work)) {
    if (!pool->TrySubmit([this] { Run(); })) Finish(ToGrpc(full));
  }

 private:
  void Run() {
    auto result = work_(cancellation_);
    if (result.ok()) *response_ = *std::move(result);
    Finish(ToGrpc(result.status()));  // This object may be gone from here on.
  }
  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

  Response* const response_;
  const Work work_;
  Cancellation cancellation_;
};

}  // namespace hearth::control
