// SPDX-License-Identifier: Apache-2.0
// The control plane's durable metadata, whatever keeps it. conformance_test.cc holds every
// implementation to what is said here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace hearth::control {

// What is kept. Parents: a tenant has none; functions, artifacts and operations belong to a tenant,
// versions and aliases to a function.
enum class Kind { kTenant, kFunction, kVersion, kAlias, kArtifact, kOperation };

struct Record {
  std::string name;       // Unique in its kind.
  std::string parent;     // Its parent's name; must exist.
  std::string sort_key;   // Unique below its parent; the order of listing.
  std::string reference;  // An alias: the version it names, which must exist. Others: empty.
  std::string body;       // The resource, a serialised message.
};

// The answer that a mutation with a request_id was given.
struct Replay {
  std::string request_digest;
  std::string response;
};

// An invocation with an idempotency_key. `response` is empty until it has ended.
struct IdempotentCall {
  std::string function;
  std::string key;
  std::string request_digest;
  std::string invocation;
  absl::optional<std::string> response;
};

// Sees its own writes. Valid only inside the call it was handed to.
class MetadataTransaction {
 public:
  virtual ~MetadataTransaction() = default;

  // ALREADY_EXISTS; FAILED_PRECONDITION when the parent or reference does not exist.
  virtual absl::Status Insert(Kind kind, const Record& record) = 0;
  // Replaces reference and body. NOT_FOUND; FAILED_PRECONDITION as above.
  virtual absl::Status Update(Kind kind, const Record& record) = 0;
  // NOT_FOUND; FAILED_PRECONDITION while it is a function's or an operation's parent, or referred
  // to. (A tenant's artifacts go with it.)
  virtual absl::Status Erase(Kind kind, const std::string& name) = 0;
  virtual absl::Status EraseChildren(Kind kind, const std::string& parent) = 0;
  virtual absl::StatusOr<Record> Get(Kind kind, const std::string& name) = 0;  // NOT_FOUND
  // At most `limit` children with a sort key beyond `after` (all when empty), in order.
  virtual absl::StatusOr<std::vector<Record>> List(Kind kind, const std::string& parent,
                                                   const std::string& after, int limit,
                                                   bool descending) = 0;
  // The children before the last `kept` in order, at most `limit`, the last of them first.
  virtual absl::StatusOr<std::vector<Record>> Surplus(Kind kind, const std::string& parent,
                                                      int kept, int limit) = 0;
  // Every record of the kind, by name. For start-up.
  virtual absl::StatusOr<std::vector<Record>> All(Kind kind) = 0;

  // 1 at the first call for `counter`, then 2, ...; never a number twice once committed.
  virtual absl::StatusOr<int64_t> NextNumber(const std::string& counter) = 0;

  virtual absl::StatusOr<absl::optional<Replay>> FindReplay(const std::string& key) = 0;
  virtual absl::Status PutReplay(const std::string& key, const Replay& replay,
                                 absl::Time expiry) = 0;

  virtual absl::StatusOr<absl::optional<IdempotentCall>> FindCall(const std::string& function,
                                                                  const std::string& key) = 0;
  virtual absl::Status PutCall(const IdempotentCall& call, absl::Time expiry) = 0;
  virtual absl::Status EraseCall(const std::string& function, const std::string& key) = 0;
  // Of the function `parent`, or of all functions below it.
  virtual absl::Status EraseCalls(const std::string& parent) = 0;
  // Calls without a response: those that a crash cut off, when asked at start-up.
  virtual absl::StatusOr<std::vector<IdempotentCall>> OpenCalls() = 0;
  // Of the responses kept, of the same functions.
  virtual absl::StatusOr<int64_t> CallBytes(const std::string& parent) = 0;

  // Forgets replays and ended calls that expired before `now`.
  virtual absl::Status Expire(absl::Time now) = 0;
};

// Thread-safe.
class MetadataStore {
 public:
  using Body = absl::FunctionRef<absl::Status(MetadataTransaction&)>;
  virtual ~MetadataStore() = default;
  // Runs `body` alone. What it did is kept, durably, when it and this answer OK; else nothing of
  // it. A full disk is RESOURCE_EXHAUSTED.
  virtual absl::Status Write(Body body) = 0;
  // The same without writing.
  virtual absl::Status Read(Body body) = 0;
};

}  // namespace hearth::control
