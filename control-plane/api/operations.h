// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/store/metadata_store.h"
#include "google/longrunning/operations.pb.h"
#include "google/protobuf/message.h"

namespace hearth::control {

// Long-running operations: those under way in memory with their progress, the ended ones in the
// metadata. Thread-safe.
class Operations {
 public:
  using Operation = google::longrunning::Operation;

  explicit Operations(MetadataStore* metadata) : metadata_(metadata) {}

  // At start-up: what was under way when hearthd ended has failed, and so have its versions.
  absl::Status Recover();

  absl::StatusOr<Operation> Get(const std::string& name);
  absl::StatusOr<google::longrunning::ListOperationsResponse> List(
      const google::longrunning::ListOperationsRequest& request);
  // OK also when it has ended; whether it was in time shows in the operation.
  absl::Status Cancel(const std::string& name);
  absl::Status Delete(const std::string& name);  // FAILED_PRECONDITION while under way.
  // Answers when it has ended, at `deadline` as it then is, or CANCELLED.
  absl::StatusOr<Operation> Wait(const std::string& name, absl::Time deadline,
                                 const Cancellation& cancellation);

  // For who does the work. Keeps a new one, and forgets the tenant's ended ones but the newest
  // limits::kMaxOperations.
  static absl::Status Insert(MetadataTransaction& transaction, const Operation& operation);
  // `subject` is what is worked on, a version's name. The record is in the
  // metadata already.
  void Start(const Operation& operation, const std::string& subject,
             const Cancellation& cancellation);
  void SetMetadata(const std::string& name, const google::protobuf::Message& metadata);
  // Ends it: `body` sets the result, in one transaction with what else changes.
  absl::Status Finish(const std::string& name,
                      absl::FunctionRef<absl::Status(MetadataTransaction&, Operation*)> body);

  // When Finish() cannot write: it has failed, which is known from memory until it can be written,
  // with what `also` changes.
  void Abandon(const std::string& name, const absl::Status& error,
               std::function<absl::Status(MetadataTransaction&)> also);

  // Cancels all whose subject is `parent` or below it, and waits for their end.
  void CancelBelow(const std::string& parent);
  void CancelAll() { CancelBelow(""); }

 private:
  struct Active {
    Operation operation;
    std::string subject;
    Cancellation cancellation;
    std::function<absl::Status(MetadataTransaction&)> also;  // Of an abandoned one.
  };

  // Tries again to write what was abandoned.
  void SaveAbandoned() ABSL_LOCKS_EXCLUDED(mutex_);
  bool AnyBelow(const std::string& parent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  MetadataStore* const metadata_;
  absl::Mutex mutex_;
  std::map<std::string, Active> active_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
