// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "hearth/launcher/v1/launcher.pb.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/steady_clock.h"
#include "vmm/base/unique_fd.h"
#include "wire/fd_socket.h"

namespace hearth::control {

// One hearth.launcher.v1 session. Thread-safe; read on the event loop's thread, where the exit
// callbacks are called, without a lock held.
class LauncherClient : public std::enable_shared_from_this<LauncherClient> {
 public:
  // Null: the session was lost, and with it who would tell.
  using ExitCallback = std::function<void(const launcher::v1::Exited* exited)>;

  struct Process {
    int pid = -1;
    UniqueFd pidfd;
  };

  // Blocks until the launcher has said Hello.
  static absl::StatusOr<std::shared_ptr<LauncherClient>> Connect(EventLoop* loop,
                                                                 const std::string& path,
                                                                 const std::string& build,
                                                                 absl::Duration timeout);

  // Whether it says that its machines' agents are reached over vsock.
  bool vsock() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return vsock_;
  }
  // `on_exit` is called once if and only if this succeeds. Without `memory_mib` (0) SetMemory() is
  // to follow before there is a guest.
  absl::StatusOr<Process> Spawn(uint32_t memory_mib, UniqueFd control, ExitCallback on_exit,
                                uint64_t* id, absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  void Kill(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Limits one that was spawned without. Not waited for: what fails ends the VMM.
  void SetMemory(uint64_t id, uint32_t memory_mib) ABSL_LOCKS_EXCLUDED(mutex_);
  // Its /proc/PID/pagemap, open for reading.
  absl::StatusOr<UniqueFd> OpenPagemap(uint64_t id, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Which of the VMMs it spawned run. UNIMPLEMENTED: the launcher is too old to tell.
  absl::StatusOr<std::set<uint64_t>> List(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the session, and with it, at the launcher, its VMMs.
  void Close(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Pending {
    bool answered = false;
    absl::Status error;
    Process process;
    ExitCallback on_exit;
  };

  struct Opening {
    bool answered = false;
    absl::Status error;
    UniqueFd pagemap;
  };

  struct Listing {
    bool answered = false;
    std::set<uint64_t> ids;
  };

  LauncherClient(EventLoop* loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
  absl::Status Greet(const std::string& build, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnEvents(uint32_t events) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Handle(wire::FdFrame frame, std::vector<std::function<void()>>* calls)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HandlePagemap(const launcher::v1::Pagemap& pagemap, std::vector<UniqueFd> fds)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Send(const launcher::v1::Frame& frame, std::vector<UniqueFd> fds = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EventLoop* const loop_;
  mutable absl::Mutex mutex_;
  SteadyCondVar changed_;
  wire::FdSocket socket_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  uint32_t version_ ABSL_GUARDED_BY(mutex_) = 0;
  bool vsock_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, Pending> spawning_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Opening> opening_ ABSL_GUARDED_BY(mutex_);  // By request.
  std::map<uint64_t, Listing> listing_ ABSL_GUARDED_BY(mutex_);  // By request.
  std::map<uint64_t, ExitCallback> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
