// SPDX-License-Identifier: Apache-2.0
// hearthd's API as the benchmarks use it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/call.h"
#include "hearth/v1/services.grpc.pb.h"

namespace hearth::bench {

// An invocation as its client saw it.
struct Reply {
  hearth::v1::Invocation invocation;
  int64_t sent_unix_ns = 0;  // By the clock that start_time is of: both are on one host.
  double reply_ms = 0;       // From sending to the last byte.
};

// Thread-safe.
class Client {
 public:
  explicit Client(const std::string& socket);

  // An outcome other than SUCCEEDED is an error that tells it.
  absl::StatusOr<Reply> Invoke(const Call& call) const;
  // `count` of them side by side.
  std::vector<absl::StatusOr<Reply>> InvokeAtOnce(const Call& call, int count) const;
  absl::StatusOr<int> CountInstances(const std::string& function) const;
  // hearthd has no call that waits for it: this polls. It wants a short --idle-stop.
  absl::Status AwaitNoInstance(const std::string& function) const;

 private:
  std::unique_ptr<hearth::v1::InvocationService::Stub> invocations_;
  std::unique_ptr<hearth::v1::InstanceService::Stub> instances_;
};

}  // namespace hearth::bench
