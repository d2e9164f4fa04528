// SPDX-License-Identifier: Apache-2.0
// The one place where the API half and the node half of hearthd meet. Today both are in one
// process; between machines the same calls will travel as hearth.node.v1.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "control-plane/node/cancellation.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::control {

// A file of the image store: verified against its digest when the store was loaded or it was built.
struct ImageFile {
  std::string path;
  std::string digest;  // "sha256:{64 hex digits}"
};

// Keeps image files for as long as a snapshot needs them, whatever becomes of the image store they
// came from. Thread-safe.
class ImageKeeper {
 public:
  virtual ~ImageKeeper() = default;
  virtual absl::Status Keep(const ImageFile& image) = 0;
  // One that was kept, verified. NOT_FOUND, DATA_LOSS.
  virtual absl::StatusOr<ImageFile> Find(const std::string& digest) = 0;
  // Removes all others.
  virtual absl::Status Retain(const std::set<std::string>& digests) = 0;
};

// How a runtime starts user code; from its manifest and the version's interface.
struct RuntimeDescription {
  std::string name;  // "python3.11"
  ImageFile image;
  bool runtime_api = true;                         // false: a process per invocation, stdio.
  std::vector<std::string> arguments;              // Seen from user code's root.
  std::map<std::string, std::string> environment;  // The manifest's.
  std::string handler;
};

// All that a node needs to run a version; immutable, shared by the calls that use it.
struct VersionDescription {
  std::string name;  // tenants/{t}/functions/{f}/versions/{n}
  std::string uid;
  ImageFile kernel;  // Without a path: the node's own.
  ImageFile agent;
  RuntimeDescription runtime;
  ImageFile code_disk;
  uint32_t memory_mib = 0;
  absl::Duration timeout;
  absl::Duration init_timeout;
  std::map<std::string, std::string> environment;  // The version's.
  std::map<std::string, std::string> secrets;      // Likewise, for instances only.
};
using VersionPtr = std::shared_ptr<const VersionDescription>;

// Where a response goes. Called from the thread that called Node::Invoke, in order.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  virtual absl::Status Write(std::string bytes) = 0;
};

struct InvocationRequest {
  std::string id;  // UUIDv7
  std::string content_type;
  std::string trace_parent;
  std::string client_context;
  absl::string_view payload;  // All of it; lives as long as the call of Invoke().
  absl::Time arrival;         // When hearthd had the request's first byte, by SteadyNow().
};

// What came of an invocation whose user code may have started. `invocation` holds outcome, error,
// start_kind, instance, guest_boot_id, timing and usage.host/usage.guest; the API half adds the
// rest.
struct InvocationReport {
  hearth::v1::Invocation invocation;
  std::string content_type;
};

// An instance held for one invocation. Dropped unused, it goes back to the pool.
class Reservation {
 public:
  virtual ~Reservation() = default;
  virtual hearth::v1::StartKind start_kind() const = 0;
  virtual std::string instance_name() const = 0;
};

// Stages of Prepare, in order; percent is 0 to 100 within the stage.
enum class PrepareStage { kBoot, kInitialise, kSnapshot };
using PrepareProgress = std::function<void(PrepareStage stage, int percent)>;

struct PreparedVersion {
  absl::Duration boot;
  absl::Duration init;
  std::string snapshot;          // Its name; empty when instances will boot.
  absl::Status without_because;  // Why there is none, when there should be.
};

// Receives what happens on the node; called from the node's threads, never with its locks held, and
// must not block.
class NodeObserver {
 public:
  virtual ~NodeObserver() = default;
  // `entry` holds all but the cursor.
  virtual void OnLog(const std::string& version_name, hearth::v1::LogEntry entry) = 0;
};

class Node {
 public:
  virtual ~Node() = default;

  // Boots an instance of the version, runs its initialisation and the hooks, and makes a snapshot
  // of it; without snapshots, leaves the instance to the pool. A function's own failure is
  // FAILED_PRECONDITION with a FunctionError payload (see kFunctionErrorPayload below). Cancelled:
  // CANCELLED, and nothing is left behind.
  virtual absl::StatusOr<PreparedVersion> Prepare(VersionPtr version, PrepareProgress progress,
                                                  const Cancellation& cancellation) = 0;

  // Takes an idle instance, restores one from the version's snapshot, or boots one; waits in the
  // bounded queue while memory is short, until `deadline`, which is SteadyNow()'s.
  // RESOURCE_EXHAUSTED when the queue is full or the wait was too long.
  virtual absl::StatusOr<std::unique_ptr<Reservation>> Reserve(
      VersionPtr version, absl::Time deadline, const Cancellation& cancellation) = 0;

  // An error status means that user code provably did not start: nothing of the call has reached an
  // instance. Else the report tells the outcome.
  virtual absl::StatusOr<InvocationReport> Invoke(std::unique_ptr<Reservation> reservation,
                                                  const InvocationRequest& request,
                                                  ResponseSink& response,
                                                  const Cancellation& cancellation) = 0;

  // Ends every instance whose version name starts with `prefix` once it is not busy, at once when
  // `force`; answers when they are gone. New reservations are refused while it runs.
  virtual absl::Status Drain(const std::string& prefix, bool force) = 0;

  // The version was deleted: ends its instances once they are not busy, then deletes its snapshots.
  // Does not wait for them; new reservations are refused until they are gone.
  virtual void Retire(const std::string& version_name) = 0;

  // One observer at most; null takes it away and waits for calls under way.
  virtual void Watch(NodeObserver* observer) = 0;

  virtual std::vector<hearth::v1::Instance> ListInstances() = 0;

  // Makes a new snapshot of the version; the present one serves until then. FAILED_PRECONDITION
  // while one is being made, or when this node makes none; else as Prepare().
  virtual absl::StatusOr<hearth::v1::Snapshot> RebuildSnapshot(
      VersionPtr version, PrepareProgress progress, const Cancellation& cancellation) = 0;
  // To be called for each version at start-up and when its images have changed: what was made from
  // other images than the version's is OUTDATED, and replaced in the background; so is what was
  // refused.
  virtual void Refresh(VersionPtr version) = 0;
  virtual std::vector<hearth::v1::Snapshot> ListSnapshots() = 0;
  // The name of what the version's instances are restored from; empty: they boot.
  virtual std::string SnapshotOf(const std::string& version_name) = 0;
  // NOT_FOUND. Instances that were restored from it run on.
  virtual absl::Status DeleteSnapshot(const std::string& name) = 0;
  // Deletes those of all versions below `prefix`, which was drained.
  virtual void ForgetSnapshots(const std::string& prefix) = 0;
  // At start-up: deletes those of versions that are none of these.
  virtual void RetainSnapshots(const std::set<std::string>& version_uids) = 0;

  // The most guest memory this node can give to one instance and to all.
  virtual uint64_t memory_capacity_mib() const = 0;
};

// A FunctionError travels in a Status as this payload, a serialised hearth.v1.FunctionError.
inline constexpr char kFunctionErrorPayload[] = "type.googleapis.com/hearth.v1.FunctionError";
// How long to wait before a retry, a serialised google.rpc.RetryInfo.
inline constexpr char kRetryInfoPayload[] = "type.googleapis.com/google.rpc.RetryInfo";

}  // namespace hearth::control
