// SPDX-License-Identifier: Apache-2.0
// One hearth.vmm.v1 session: at most one domain.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "control-plane/backend/libvirt/console_copy.h"
#include "control-plane/backend/libvirt/hypervisor.h"
#include "control-plane/backend/libvirt/qemu_process.h"
#include "control-plane/backend/libvirt/run_directory.h"
#include "control-plane/backend/libvirt/saved_domain.h"
#include "control-plane/backend/libvirt/worker.h"
#include "hearth/launcher/v1/launcher.pb.h"
#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/event_loop.h"
#include "wire/fd_socket.h"

namespace hearth::libvirt {

// What all machines use; it outlives them.
struct MachineContext {
  EventLoop* loop = nullptr;
  Hypervisor* hypervisor = nullptr;
  RunDirectory* files = nullptr;
  std::string uri;
  bool kvm = false;
  uint32_t tsc_khz = 0;  // This processor's; of use without KVM.
  bool vsock = false;    // The agents are reached over it.
  std::string build;
  std::function<void()> reap;  // Reaps QEMUs that have ended, and tells their machines.
  // Names of the domains that are there, or on their way in or out.
  std::set<std::string>* domains = nullptr;
};

// The loop's thread. What blocks is done by a thread of the machine's own.
class Machine {
 public:
  // `on_end` is called once, when the domain and its process are gone: with their accounts, without
  // an id. It destroys the machine, not at once.
  using EndCallback = std::function<void(const launcher::v1::Exited& exited)>;

  static absl::StatusOr<std::unique_ptr<Machine>> Create(const MachineContext* context,
                                                         UniqueFd control, EndCallback on_end);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Any number of times; the first reason is told.
  void End(vmm::v1::Exited::Reason reason, const std::string& detail);
  void OnDomainEnded(DomainEnd end);
  void OnReaped(const Reaped& reaped);
  // The agent has dialled, or whoever in the guest does: of use once.
  void OnAgent(UniqueFd connection);

  const std::string& domain_name() const { return name_; }
  uint32_t vsock_cid() const { return vsock_cid_; }  // 0: it has none.
  pid_t pid() const { return process_.pid; }
  // There is a QEMU, and it has not ended.
  bool Runs() const { return process_.pidfd && !AwaitEnd(process_, 0); }

 private:
  enum class State { kEmpty, kCreating, kCreated, kStarted, kEnding };

  // What making a domain leads to.
  struct Made {
    QemuProcess process;
    UniqueFd agent;  // Over vsock it dials.
    UniqueFd console;
  };
  struct Job;

  Machine(const MachineContext* context, UniqueFd control, EndCallback on_end)
      : context_(context), socket_(std::move(control)), on_end_(std::move(on_end)) {}
  absl::Status Greet();
  void OnEvents(uint32_t events);
  absl::Status Receive();
  absl::Status Handle(wire::FdFrame frame);
  absl::Status HandleRequest(const vmm::v1::Request& request, std::vector<UniqueFd> fds);
  void Create(uint64_t id, const vmm::v1::CreateMachine& request, std::vector<UniqueFd> fds);
  void Restore(uint64_t id, const vmm::v1::RestoreMachine& request, std::vector<UniqueFd> fds);
  absl::StatusOr<std::shared_ptr<Job>> ParseCreate(const vmm::v1::CreateMachine& request,
                                                   std::vector<UniqueFd> fds);
  absl::StatusOr<std::shared_ptr<Job>> ParseRestore(const vmm::v1::RestoreMachine& request,
                                                    std::vector<UniqueFd> fds);
  absl::Status AddConsole(const vmm::v1::Console& console, std::vector<UniqueFd>& fds, Job* job);
  void Begin(uint64_t id, absl::StatusOr<std::shared_ptr<Job>> job);
  absl::StatusOr<Made> Make(Job& job);  // On the worker, as is the next.
  absl::StatusOr<Domain> MakeDomain(Job& job);
  void OnMade(uint64_t id, const std::shared_ptr<Job>& job, absl::StatusOr<Made> made);
  void SendAgent();
  void Save(uint64_t id, const vmm::v1::SaveMachine& request, std::vector<UniqueFd> fds);
  // Suspends or resumes it, on the worker.
  void Change(uint64_t id, bool run);
  void OnRunning(uint64_t id, const absl::Status& status, bool run);
  void Stop(uint64_t id, const vmm::v1::StopMachine& request);
  void GetStatistics(uint64_t id);
  void OnProcessEnded();
  void EndLater(uint64_t delay_ns, vmm::v1::Exited::Reason reason, const std::string& detail);
  void KillLater();
  void KillQemu();
  void TearDown();  // On the worker.
  void Finish(uint64_t cpu_ns);
  absl::Status EndingStatus() const;

  void Answer(uint64_t id, const absl::Status& status, vmm::v1::Response response = {},
              std::vector<UniqueFd> fds = {});
  void Send(const vmm::v1::Frame& frame, std::vector<UniqueFd> fds = {});
  absl::Status WatchForWriting();

  const MachineContext* const context_;
  wire::FdSocket socket_;
  const EndCallback on_end_;
  bool greeted_ = false;
  bool connected_ = true;  // The control socket is of use.
  bool watches_writing_ = false;
  State state_ = State::kEmpty;
  std::string name_;
  uint32_t vsock_cid_ = 0;
  QemuProcess process_;
  UniqueFd agent_;  // Until the machine is started.
  bool agent_sent_ = false;
  std::unique_ptr<ConsoleCopy> console_;
  std::unique_ptr<Timer> timer_;   // Ends it when it expires.
  std::unique_ptr<Timer> killer_;  // Of one that is ending.
  vmm::v1::Exited why_;
  std::optional<Reaped> reaped_;
  bool running_ = false;
  std::optional<Domain> domain_;  // The worker's, as are the next.
  QemuProcess qemu_;
  v1::SavedDomain description_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace hearth::libvirt
