// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/create_request.h"
#include "vmm/machine/machine.h"
#include "wire/fd_socket.h"

namespace hearth::vmm {

// Serves hearth.vmm.v1 on one control socket: translates frames to calls of one Machine.
// Thread: the loop's.
class ControlServer {
 public:
  struct Options {
    UniqueFd socket;
    std::optional<System> system;
    EventLoop* loop = nullptr;  // Outlives the server; its Run() ends when the session is over.
    std::string build;          // Our version, for the peer's log.
    // Load the seccomp filter of the calling thread; may be empty. The main thread's comes last,
    // when the machine is built.
    std::function<absl::Status()> enter_main_jail;
    std::function<absl::Status()> enter_vcpu_jail;
    std::function<absl::Status()> enter_pager_watch_jail;
    GuestErrors::Log log;
  };

  // Sends our Hello and watches the socket.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Create(Options options);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Why the session ended: OK when the peer closed it or the machine ended.
  const absl::Status& result() const { return result_; }

 private:
  explicit ControlServer(Options options)
      : options_(std::move(options)), socket_(std::move(options_.socket)) {}

  void OnSocket(uint32_t events);
  absl::Status ReceiveFrames();
  absl::Status HandleFrame(wire::FdFrame frame);
  absl::Status HandleHello(const v1::Hello& hello);
  absl::Status HandleRequest(const v1::Request& request, FrameFds fds);
  absl::Status Execute(const v1::Request& request, FrameFds& fds, v1::Response& response);
  absl::Status CreateMachine(const v1::CreateMachine& request, FrameFds& fds);
  absl::Status RestoreMachine(const v1::RestoreMachine& request, FrameFds& fds);
  // What both need: the VM, callbacks. Once for each process.
  absl::StatusOr<Machine::Options> TakeMachineOptions();
  absl::Status AdoptMachine(absl::StatusOr<std::unique_ptr<Machine>> machine);
  absl::Status SaveMachine(const v1::SaveMachine& request, FrameFds& fds, v1::MachineSaved& saved);
  absl::Status GetWorkingSet(const v1::GetWorkingSet& request, FrameFds& fds, v1::WorkingSet& set);
  absl::Status StopMachine(const v1::StopMachine& request);
  void FillStatistics(v1::Statistics& statistics);
  void SendExited(const ExitOutcome& outcome);
  absl::Status SendVsockConnection(uint32_t port, uint32_t guest_port, UniqueFd socket);
  absl::Status SendFrame(const v1::Frame& frame, std::vector<UniqueFd> fds = {});
  void Finish(absl::Status result);

  Options options_;
  wire::FdSocket socket_;
  // Both are made while the controller is still preparing its request: on some hosts KVM_CREATE_VM
  // waits for a grace period of the kernel, and a VMM that was spawned ahead of demand has that
  // behind it.
  absl::StatusOr<Vm> vm_;
  absl::StatusOr<std::unique_ptr<VcpuThread>> thread_;
  bool machine_tried_ = false;
  std::unique_ptr<Machine> machine_;
  absl::Status result_;
  bool greeted_ = false;
  bool exit_sent_ = false;
  bool finished_ = false;
};

}  // namespace hearth::vmm
