// SPDX-License-Identifier: Apache-2.0
// One hearth-vmm process: its control socket and its end.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/backend/kvm/launcher_client.h"
#include "control-plane/backend/machine_backend.h"
#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/steady_clock.h"
#include "wire/fd_socket.h"
#include "wire/handshake.h"

namespace hearth::control {

// Thread-safe; read on the event loop's thread.
class VmmProcess : public std::enable_shared_from_this<VmmProcess> {
 public:
  // What a process is to do, with the descriptors that the request names.
  struct Order {
    vmm::v1::Request request;
    std::vector<UniqueFd> fds;
    // The answer may tell of another process, which runs the guest. Not from one that a guest may
    // have taken over.
    bool tells_process = false;
  };

  // What this side says first.
  struct Greeting {
    std::string build;  // For the VMM's log.
    wire::VersionRange versions;
  };

  // Spawns it. `first` is sent before it runs, so that it need not wait for it.
  static absl::StatusOr<std::shared_ptr<VmmProcess>> Spawn(EventLoop* loop,
                                                           std::shared_ptr<LauncherClient> launcher,
                                                           const Greeting& greeting,
                                                           uint32_t memory_mib, Order first,
                                                           absl::Time deadline);
  // Spawns one that waits for its order; answers when it has said Hello.
  static absl::StatusOr<std::shared_ptr<VmmProcess>> SpawnWaiting(
      EventLoop* loop, std::shared_ptr<LauncherClient> launcher, const Greeting& greeting,
      absl::Time deadline);
  // Of one that waits: limits it, and has it carry out the order. Once.
  absl::StatusOr<vmm::v1::Response> Employ(uint32_t memory_mib, Order order, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);
  bool alive() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether it is one of those that `launcher` says are running.
  bool IsAmong(const LauncherClient* launcher, const std::set<uint64_t>& running) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // When its Hello came, and the program that it named; of one that has answered a request.
  absl::Time greeted_at() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::string build() const ABSL_LOCKS_EXCLUDED(mutex_);

  // The answer to the first request; as Call() otherwise.
  absl::Status AwaitFirst(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends a request and waits for its answer; an error of the VMM's as a status. No answer in time
  // ends the process.
  absl::StatusOr<vmm::v1::Response> Call(Order order, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<UniqueFd> OpenPagemap(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<UniqueFd> AcceptAgent(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  void Kill() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for the end: the process is reaped.
  bool AwaitEnd(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // Kills it and waits. A launcher that does not answer is given up meanwhile.
  void EndByForce(absl::Duration answer_timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnExit(std::function<void(const MachineExit&)> callback) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::StatusOr<absl::Duration> CpuTime() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t ResidentBytes() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  VmmProcess(EventLoop* loop, std::shared_ptr<LauncherClient> launcher, wire::VersionRange versions,
             UniqueFd socket)
      : loop_(loop),
        launcher_(std::move(launcher)),
        versions_(versions),
        socket_(std::move(socket)) {}

  absl::Status SendHello(const std::string& build) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SendOrder(Order order, uint64_t* id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Has the launcher spawn it with the control socket's other end.
  absl::Status Launch(uint32_t memory_mib, UniqueFd control, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void OnEvents(uint32_t events) ABSL_LOCKS_EXCLUDED(mutex_);
  // Handles what has come; true when it was as many and more may be there.
  bool ReadFrames(int at_most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Handle(wire::FdFrame frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status HandleCreated(const vmm::v1::MachineCreated& created, std::vector<UniqueFd> fds)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const LauncherClient::Process& Measured() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return guest_.pidfd ? guest_ : process_;
  }
  absl::Status HandleEvent(const vmm::v1::Event& event, std::vector<UniqueFd> fds)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ChannelFailed(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<vmm::v1::Response> Await(uint64_t id, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EndedStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // On the loop's thread.
  void OnLauncherExited(const launcher::v1::Exited* exited) ABSL_LOCKS_EXCLUDED(mutex_);
  // On the loop: it has ended when one of these has; false if that cannot be watched.
  bool EndsWithAnyOf(const std::vector<int>& pidfds, const MachineExit& exit);
  void Finish(const MachineExit& exit) ABSL_LOCKS_EXCLUDED(mutex_);

  EventLoop* const loop_;
  const std::shared_ptr<LauncherClient> launcher_;
  const wire::VersionRange versions_;

  mutable absl::Mutex mutex_;
  SteadyCondVar changed_;
  wire::FdSocket socket_ ABSL_GUARDED_BY(mutex_);
  bool greeted_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time greeted_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool reads_on_ ABSL_GUARDED_BY(mutex_) = false;  // A turn that goes on with reading is posted.
  std::string build_ ABSL_GUARDED_BY(mutex_);
  absl::Status channel_ ABSL_GUARDED_BY(mutex_);  // Not OK: the control socket is of no more use.
  uint64_t last_request_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t create_ ABSL_GUARDED_BY(mutex_) = 0;  // The order whose answer tells a process, or 0.
  std::map<uint64_t, std::optional<vmm::v1::Response>> answers_ ABSL_GUARDED_BY(mutex_);
  UniqueFd agent_ ABSL_GUARDED_BY(mutex_);
  uint64_t launcher_id_ ABSL_GUARDED_BY(mutex_) = 0;
  LauncherClient::Process process_ ABSL_GUARDED_BY(mutex_);
  LauncherClient::Process guest_ ABSL_GUARDED_BY(mutex_);  // Where another one runs the guest.
  bool killed_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<MachineExit> told_ ABSL_GUARDED_BY(mutex_);   // By the VMM itself.
  std::optional<MachineExit> end_ ABSL_GUARDED_BY(mutex_);    // Once it is reaped.
  mutable absl::Duration final_cpu_ ABSL_GUARDED_BY(mutex_);  // The last that is known.
  std::function<void(const MachineExit&)> on_exit_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::control
