// SPDX-License-Identifier: Apache-2.0
// The connection to libvirt: opened when it is first needed, and anew after it was lost.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/backend/libvirt/limits.h"

// libvirt's handles, as in libvirt.h.
struct _virConnect;  // NOLINT(bugprone-reserved-identifier)
struct _virDomain;   // NOLINT(bugprone-reserved-identifier)

namespace hearth::libvirt {

// Why the last libvirt call of this thread has failed. UNAVAILABLE: the daemon could not be
// reached.
absl::Status LastError(absl::string_view what);

struct ConnectionOptions {
  std::string uri;
  bool embedded = false;  // There is no daemon that could be lost.
  // How long a daemon that lets us in is waited for, by all callers together. (Once it has, its
  // silence ends the connection after kDaemonPatienceSeconds.)
  absl::Duration patience = absl::Seconds(kDaemonPatienceSeconds);
  // On the thread that opens it, before anybody gets it. When it fails, so does the opening.
  std::function<absl::Status(_virConnect*)> prepare;
  // A domain's lifecycle event; on libvirt's thread.
  std::function<void(_virDomain*, int event, int detail)> on_event;
  // Once for each connection that ended, with all its domains; any thread.
  std::function<void()> on_lost;
};

// Thread-safe.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  static std::shared_ptr<Connection> Create(ConnectionOptions options) {
    return std::shared_ptr<Connection>(new Connection(std::move(options)));
  }
  // Closes it, and does not wait for a daemon that hangs. What is told after that goes nowhere.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);

  // With a reference of the caller's. UNAVAILABLE, with what to do, when there is no daemon, in
  // which case the next call tries again, or none that answers in time: it is still waited for.
  absl::StatusOr<std::shared_ptr<_virConnect>> Get() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit Connection(ConnectionOptions options) : options_(std::move(options)) {}
  static void OnClosed(_virConnect*, int reason, void* self);
  static int OnLifecycle(_virConnect*, _virDomain* domain, int event, int detail, void* self);

  // On a thread of its own: a daemon that hangs lets its clients wait for ever.
  void Open() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Prepare(_virConnect* connection);
  void Disconnect(_virConnect* connection);
  void TellLost();

  const ConnectionOptions options_;
  std::atomic<bool> told_lost_{false};
  std::atomic<int> lifecycle_{-1};  // The number of the callback.
  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool opening_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time opening_since_ ABSL_GUARDED_BY(mutex_);
  bool preparing_ ABSL_GUARDED_BY(mutex_) = false;  // The later part of it, which ends in time.
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  _virConnect* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);  // Of the last opening.
};

}  // namespace hearth::libvirt
