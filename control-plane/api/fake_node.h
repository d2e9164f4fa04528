// SPDX-License-Identifier: Apache-2.0
// A node for tests: runs "user code" in this process. What a version does follows from its handler.
//   echo.*   answers its payload          error.*  a FUNCTION_ERROR
//   big.*    answers 7 MB                 wait.*   runs until cancelled, then INSTANCE_LOST
//   gate.*   runs until Open()            busy.*   cannot be reserved
//   bad.*    its initialisation fails     slow.*   its initialisation ends only when cancelled
//   queue.*  is never reserved, only waited for
//   broken.* cannot be reserved, for its initialisation fails with all that an error may hold
//   held.*   its snapshots are neither made again nor deleted before Open()
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/limits.h"
#include "control-plane/node/node.h"

namespace hearth::control {

class FakeNode final : public Node {
 public:
  absl::StatusOr<PreparedVersion> Prepare(VersionPtr version, PrepareProgress progress,
                                          const Cancellation& cancellation) override {
    progress(PrepareStage::kBoot, 0);
    progress(PrepareStage::kBoot, 100);
    progress(PrepareStage::kInitialise, 50);
    if (Does(*version, "slow")) {
      prepares_.fetch_add(1);
      WaitFor(cancellation);
      return absl::CancelledError("cancelled");
    }
    if (Does(*version, "bad")) {
      hearth::v1::FunctionError error;
      error.set_type("Runtime.ImportModuleError");
      error.set_message("No module named 'bad'");
      return InitFailed(error);
    }
    progress(PrepareStage::kSnapshot, 50);
    absl::MutexLock lock(&mutex_);
    prepared_ = version;
    instances_.insert(version->name);
    return PreparedVersion{absl::Milliseconds(20), absl::Milliseconds(7), MakeSnapshot(*version),
                           absl::OkStatus()};
  }

  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(VersionPtr version, absl::Time,
                                                       const Cancellation& cancellation) override {
    if (cancellation.cancelled()) return absl::CancelledError("cancelled");
    if (Does(*version, "queue")) {
      waiting_.fetch_add(1);
      WaitFor(cancellation);
      return absl::CancelledError("cancelled");
    }
    if (Does(*version, "broken")) return LargestError();
    if (Does(*version, "busy")) return absl::ResourceExhaustedError("the queue is full");
    absl::MutexLock lock(&mutex_);
    instances_.insert(version->name);
    return std::make_unique<Held>(std::move(version));
  }

  absl::StatusOr<InvocationReport> Invoke(std::unique_ptr<Reservation> reservation,
                                          const InvocationRequest& request, ResponseSink& response,
                                          const Cancellation& cancellation) override {
    const VersionPtr version = static_cast<Held*>(reservation.get())->version;
    const Busy busy(this, version->name);
    runs_.fetch_add(1);
    std::string bytes(request.payload);
    Say(*version, request.id, "running");
    InvocationReport report;
    report.content_type = request.content_type;
    auto& invocation = report.invocation;
    invocation.set_outcome(hearth::v1::SUCCEEDED);
    invocation.set_start_kind(hearth::v1::WARM);
    invocation.set_instance(reservation->instance_name());
    invocation.set_guest_boot_id("boot");
    invocation.mutable_timing()->mutable_execution()->set_nanos(1'500'000);
    invocation.mutable_usage()->mutable_host()->set_cpu_ns(1000);
    if (Does(*version, "wait")) {
      WaitFor(cancellation);
      invocation.set_outcome(hearth::v1::INSTANCE_LOST);
      cancelled_runs_.fetch_add(1);
      return report;
    }
    if (Does(*version, "gate")) AwaitOpen();
    if (Does(*version, "error")) {
      invocation.set_outcome(hearth::v1::FUNCTION_ERROR);
      invocation.mutable_error()->set_type("ValueError");
      return report;
    }
    if (Does(*version, "big")) bytes.assign(7'000'000, 'b');
    for (size_t at = 0; at < bytes.size(); at += 60'000) {
      if (!response.Write(bytes.substr(at, 60'000)).ok()) {
        invocation.set_outcome(hearth::v1::FUNCTION_ERROR);
        break;
      }
    }
    return report;
  }

  absl::Status Drain(const std::string& prefix, bool force) override {
    absl::MutexLock lock(&mutex_);
    const auto idle = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return force || std::none_of(busy_.begin(), busy_.end(), [&](const std::string& version) {
               return version == prefix || absl::StartsWith(version, prefix + "/");
             });
    };
    mutex_.Await(absl::Condition(&idle));
    for (auto it = instances_.begin(); it != instances_.end();) {
      const bool below = *it == prefix || absl::StartsWith(*it, prefix + "/");
      it = below ? instances_.erase(it) : std::next(it);
    }
    return absl::OkStatus();
  }

  void Retire(const std::string& version) override {
    Drain(version, true).IgnoreError();
    ForgetSnapshots(version);
  }

  void Watch(NodeObserver* observer) override {
    absl::MutexLock lock(&observer_mutex_);
    observer_ = observer;
  }

  std::vector<hearth::v1::Instance> ListInstances() override {
    absl::MutexLock lock(&mutex_);
    std::vector<hearth::v1::Instance> list;
    for (const std::string& version : instances_) {
      hearth::v1::Instance instance;
      instance.set_name(InstanceName(version));
      instance.set_version(version);
      instance.set_state(hearth::v1::Instance::IDLE);
      list.push_back(instance);
    }
    return list;
  }

  absl::StatusOr<hearth::v1::Snapshot> RebuildSnapshot(VersionPtr version, PrepareProgress progress,
                                                       const Cancellation& cancellation) override {
    progress(PrepareStage::kBoot, 50);
    if (Does(*version, "held")) AwaitOpen();
    if (Does(*version, "unsaved")) return absl::UnavailableError("it could not be saved");
    if (cancellation.cancelled()) return absl::CancelledError("cancelled");
    absl::MutexLock lock(&mutex_);
    const std::string name = MakeSnapshot(*version);
    return snapshots_[version->name];
  }
  void Refresh(VersionPtr version) override {
    absl::MutexLock lock(&mutex_);
    refreshed_.push_back(version);
  }
  std::vector<hearth::v1::Snapshot> ListSnapshots() override {
    absl::MutexLock lock(&mutex_);
    std::vector<hearth::v1::Snapshot> list;
    for (const auto& [version, snapshot] : snapshots_) list.push_back(snapshot);
    return list;
  }
  std::string SnapshotOf(const std::string& version_name) override {
    absl::MutexLock lock(&mutex_);
    const auto found = snapshots_.find(version_name);
    return found == snapshots_.end() ? "" : found->second.name();
  }
  absl::Status DeleteSnapshot(const std::string& name) override {
    absl::MutexLock lock(&mutex_);
    if (held_.count(name) != 0) {
      ++held_deletes_;
      mutex_.Await(absl::Condition(&open_));
    }
    for (auto it = snapshots_.begin(); it != snapshots_.end(); ++it) {
      if (it->second.name() != name) continue;
      snapshots_.erase(it);
      return absl::OkStatus();
    }
    return absl::NotFoundError("no such snapshot");
  }
  void ForgetSnapshots(const std::string& prefix) override {
    absl::MutexLock lock(&mutex_);
    for (auto it = snapshots_.begin(); it != snapshots_.end();) {
      const bool below = it->first == prefix || absl::StartsWith(it->first, prefix + "/");
      it = below ? snapshots_.erase(it) : std::next(it);
    }
  }
  void RetainSnapshots(const std::set<std::string>& version_uids) override {
    absl::MutexLock lock(&mutex_);
    retained_ = version_uids;
  }
  // The last that was.
  VersionPtr prepared() {
    absl::MutexLock lock(&mutex_);
    return prepared_;
  }
  std::vector<VersionPtr> refreshed() {
    absl::MutexLock lock(&mutex_);
    return refreshed_;
  }
  std::set<std::string> retained() {
    absl::MutexLock lock(&mutex_);
    return retained_;
  }

  uint64_t memory_capacity_mib() const override { return 4096; }

  void Open() {
    absl::MutexLock lock(&mutex_);
    open_ = true;
  }
  int held_deletes() {
    absl::MutexLock lock(&mutex_);
    return held_deletes_;
  }
  int runs() const { return runs_.load(); }
  int cancelled_runs() const { return cancelled_runs_.load(); }
  int prepares() const { return prepares_.load(); }
  int waiting() const { return waiting_.load(); }  // Reservations, ever.

 private:
  // Its name.
  std::string MakeSnapshot(const VersionDescription& version)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    hearth::v1::Snapshot& snapshot = snapshots_[version.name];
    snapshot.set_name(version.name + "/snapshots/s" + std::to_string(++made_snapshots_));
    snapshot.set_version(version.name);
    snapshot.set_state(hearth::v1::Snapshot::READY);
    snapshot.mutable_images()->set_kernel(version.kernel.digest);
    snapshot.mutable_images()->set_agent(version.agent.digest);
    snapshot.mutable_images()->set_runtime(version.runtime.image.digest);
    if (Does(version, "held")) held_.insert(snapshot.name());
    return snapshot.name();
  }
  void AwaitOpen() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&open_));
  }

  // A version whose "user code" runs.
  class Busy {
   public:
    Busy(FakeNode* node, const std::string& version) : node_(node) {
      absl::MutexLock lock(&node_->mutex_);
      at_ = node_->busy_.insert(version);
    }
    ~Busy() {
      absl::MutexLock lock(&node_->mutex_);
      node_->busy_.erase(at_);
    }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    FakeNode* const node_;
    std::multiset<std::string>::iterator at_;
  };

  struct Held final : Reservation {
    explicit Held(VersionPtr held) : version(std::move(held)) {}
    hearth::v1::StartKind start_kind() const override { return hearth::v1::WARM; }
    std::string instance_name() const override { return InstanceName(version->name); }
    const VersionPtr version;
  };

  static absl::Status InitFailed(const hearth::v1::FunctionError& error) {
    absl::Status status = absl::FailedPreconditionError(
        absl::StrCat("the function's initialisation failed: ", error.message()));
    status.SetPayload(kFunctionErrorPayload, absl::Cord(error.SerializeAsString()));
    return status;
  }
  static absl::Status LargestError() {
    hearth::v1::FunctionError error;
    error.set_type("ValueError");
    while (error.message().size() + 2 <= limits::kMaxErrorTextBytes)
      *error.mutable_message() += "é";
    for (size_t i = 0; i < limits::kMaxStackTraceLines; ++i) {
      error.add_stack_trace(absl::StrCat("frame ", i, std::string(100, '.')));
    }
    return InitFailed(error);
  }

  static std::string InstanceName(const std::string& version) {
    const size_t split = version.rfind("/versions/");
    return version.substr(0, split) + "/instances/" + version.substr(split + 10);
  }
  static bool Does(const VersionDescription& version, const std::string& what) {
    return absl::StartsWith(version.runtime.handler, what);
  }
  static void WaitFor(const Cancellation& cancellation) {
    absl::Mutex mutex;
    bool cancelled = false;
    const auto registration = cancellation.OnCancel([&] {
      absl::MutexLock lock(&mutex);
      cancelled = true;
    });
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&cancelled));
  }
  void Say(const VersionDescription& version, const std::string& id, const std::string& text) {
    hearth::v1::LogEntry entry;
    entry.set_source(hearth::v1::LogEntry::STDOUT);
    entry.set_invocation(version.name.substr(0, version.name.rfind("/versions/")) +
                         "/invocations/" + id);
    entry.set_text(text);
    absl::MutexLock lock(&observer_mutex_);
    if (observer_ != nullptr) observer_->OnLog(version.name, std::move(entry));
  }

  absl::Mutex mutex_;
  std::set<std::string> instances_ ABSL_GUARDED_BY(mutex_);  // One for each version in use.
  std::multiset<std::string> busy_ ABSL_GUARDED_BY(mutex_);
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, hearth::v1::Snapshot> snapshots_ ABSL_GUARDED_BY(mutex_);  // By version.
  std::set<std::string> held_ ABSL_GUARDED_BY(mutex_);  // Snapshots that Open() lets go.
  int held_deletes_ ABSL_GUARDED_BY(mutex_) = 0;        // Begun.
  int made_snapshots_ ABSL_GUARDED_BY(mutex_) = 0;
  VersionPtr prepared_ ABSL_GUARDED_BY(mutex_);
  std::vector<VersionPtr> refreshed_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> retained_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex observer_mutex_;
  NodeObserver* observer_ ABSL_GUARDED_BY(observer_mutex_) = nullptr;
  std::atomic<int> runs_{0};
  std::atomic<int> cancelled_runs_{0};
  std::atomic<int> prepares_{0};
  std::atomic<int> waiting_{0};
};

}  // namespace hearth::control
