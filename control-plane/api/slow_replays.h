// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/store/metadata_store.h"
#include "google/protobuf/message.h"

namespace hearth::control {

// The same as Replayed() of fields.h, for mutations that take long: a transaction would keep
// everybody else from the metadata. Thread-safe.
class SlowReplays {
 public:
  // Outlived by the store.
  explicit SlowReplays(MetadataStore* metadata) : metadata_(metadata) {}

  // The answer given before to this request_id, if any, else what `body` answers, which is then
  // kept. A request with the id of one under way waits for it.
  absl::Status Once(absl::string_view method, const std::string& request_id,
                    const google::protobuf::Message& request, google::protobuf::Message* response,
                    absl::FunctionRef<absl::Status()> body) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Status Run(absl::string_view method, const std::string& request_id,
                   const google::protobuf::Message& request, google::protobuf::Message* response,
                   absl::FunctionRef<absl::Status()> body);

  MetadataStore* const metadata_;
  absl::Mutex mutex_;
  std::set<std::string> under_way_ ABSL_GUARDED_BY(mutex_);  // Methods and request_ids.
};

}  // namespace hearth::control
