// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/metering/log_hub.h"
#include "control-plane/node/node.h"
#include "control-plane/routing/router.h"
#include "control-plane/store/ledger.h"
#include "control-plane/store/metadata_store.h"
#include "control-plane/store/uuid.h"
#include "hearth/v1/services.pb.h"

namespace hearth::control {

// Bytes that may be in memory at once for all calls. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(size_t bytes) : most_(bytes), free_(bytes) {}

  // Gives back when it goes.
  class Share {
   public:
    explicit Share(ByteBudget* budget) : budget_(budget) {}
    ~Share() { budget_->Give(bytes_); }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;
    absl::Status Add(size_t bytes);  // RESOURCE_EXHAUSTED
   private:
    ByteBudget* const budget_;
    size_t bytes_ = 0;
  };

 private:
  bool Take(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Give(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  const size_t most_;
  absl::Mutex mutex_;
  size_t free_ ABSL_GUARDED_BY(mutex_);
};

// One call, whole: its payload was read before anything was started.
struct InvokeCall {
  hearth::v1::InvokeRequest request;
  size_t max_response_bytes = 0;
  absl::Time arrival;                            // By SteadyNow(), and so is
  absl::Time deadline = absl::InfiniteFuture();  // the client's.
  // Holds the payload; gets the response, too, before user code is started.
  ByteBudget::Share* share = nullptr;
};

// Runs invocations: resolves the name, reserves an instance, runs, bills, records. Thread-safe; a
// call holds its thread until it ended.
class Invoker {
 public:
  // All outlive the invoker.
  struct Parts {
    MetadataStore* metadata;
    Ledger* ledger;
    Node* node;
    Router* router;
    LogHub* logs;
    UuidGenerator* uuids;
    size_t max_buffered_bytes;
    int64_t max_kept_response_bytes;  // Of a tenant.
  };

  explicit Invoker(const Parts& parts);

  // At start-up: calls with an idempotency_key that were cut off have been INSTANCE_LOST.
  absl::Status Recover();

  // An error means that user code did not start. Its record is in the ledger when it answers OK.
  // Cancelled, the invocation is ended, unless it has an idempotency_key and was started: then it
  // goes on, for the repeat to find its result.
  absl::StatusOr<hearth::v1::InvokeResponse> Invoke(const InvokeCall& call,
                                                    const Cancellation& cancellation);

  // Ends the invocations that go on without their client, and all that come.
  void End() { ending_.Cancel(); }

  // What a call may hold in memory beside its share: see limits.h.
  ByteBudget* budget() { return &budget_; }

 private:
  class Collector;

  absl::StatusOr<hearth::v1::InvokeResponse> Once(const InvokeCall& call, const Route& route,
                                                  const std::string& name,
                                                  const IdempotentCall* mine,
                                                  const Cancellation& cancellation);
  absl::StatusOr<hearth::v1::InvokeResponse> Idempotent(const InvokeCall& call, const Route& route,
                                                        const std::string& name,
                                                        const Cancellation& cancellation);
  // What the same call was answered before, if it was.
  absl::StatusOr<absl::optional<hearth::v1::InvokeResponse>> Repeated(const IdempotentCall& mine,
                                                                      ByteBudget::Share* share);
  // Of a call that begins, and of one that has ended: keeps that it has.
  absl::Status KeepBegun(const IdempotentCall& mine, const std::string& version);
  absl::Status KeepEnded(const IdempotentCall& mine);
  absl::StatusOr<hearth::v1::InvokeResponse> Lost(const IdempotentCall& call);
  void Settle(const InvokeCall& call, const Route& route, const std::string& name,
              InvocationReport report, Collector& collector, hearth::v1::InvokeResponse* response);
  absl::Status AwaitTurn(const std::string& key, const Cancellation& cancellation)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const Parts parts_;
  ByteBudget budget_;
  Cancellation ending_;
  absl::Mutex mutex_;
  // Functions and keys of the idempotent calls under way.
  std::set<std::string> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
