// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/machine.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"
#include "wire/handshake.h"
#include "wire/limits.h"

namespace hearth::libvirt {

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const MachineContext* context,
                                                         UniqueFd control, EndCallback on_end) {
  std::unique_ptr<Machine> machine(new Machine(context, std::move(control), std::move(on_end)));
  RETURN_IF_ERROR(machine->Greet());
  return machine;
}

Machine::~Machine() {
  worker_.reset();
  context_->loop->Remove(socket_.fd());
  if (process_.pidfd) context_->loop->Remove(process_.pidfd.get());
}

absl::Status Machine::Greet() {
  RETURN_IF_ERROR(
      context_->loop->Add(socket_.fd(), EPOLLIN, [this](uint32_t events) { OnEvents(events); }));
  vmm::v1::Frame hello;
  hello.mutable_hello()->set_min_version(wire::kVmmMinVersion);
  hello.mutable_hello()->set_max_version(wire::kVmmMaxVersion);
  hello.mutable_hello()->set_build(context_->build);
  RETURN_IF_ERROR(socket_.Send(hello.SerializeAsString()));
  return WatchForWriting();
}

void Machine::OnEvents(uint32_t events) {
  if (!connected_) return;
  absl::Status status;
  if ((events & EPOLLOUT) != 0) status = socket_.Flush();
  if (status.ok()) status = WatchForWriting();
  if (status.ok() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) status = Receive();
  if (status.ok()) return;
  connected_ = false;
  context_->loop->Remove(socket_.fd());
  End(vmm::v1::Exited::REASON_STOPPED, absl::StrCat("its control socket: ", status.message()));
}

absl::Status Machine::Receive() {
  while (connected_) {
    ASSIGN_OR_RETURN(std::optional<wire::FdFrame> frame, socket_.TryReceive());
    if (!frame.has_value()) return absl::OkStatus();
    RETURN_IF_ERROR(Handle(*std::move(frame)));
  }
  return absl::OkStatus();
}

absl::Status Machine::Handle(wire::FdFrame received) {
  vmm::v1::Frame frame;
  if (!frame.ParseFromString(received.payload)) {
    return absl::InvalidArgumentError("a frame that is no hearth.vmm.v1.Frame");
  }
  if (!greeted_) {
    if (!frame.has_hello()) return absl::InvalidArgumentError("a message before Hello");
    greeted_ = true;
    return wire::NegotiateVersion("hearth.vmm.v1", "the controller",
                                  {wire::kVmmMinVersion, wire::kVmmMaxVersion},
                                  {frame.hello().min_version(), frame.hello().max_version()})
        .status();
  }
  if (!frame.has_request()) return absl::InvalidArgumentError("a frame that is no request");
  return HandleRequest(frame.request(), std::move(received.fds));
}

absl::Status Machine::HandleRequest(const vmm::v1::Request& request, std::vector<UniqueFd> fds) {
  using Request = vmm::v1::Request;
  const uint64_t id = request.id();
  if (state_ == State::kEnding) {
    Answer(id, EndingStatus());
    return absl::OkStatus();
  }
  if (worker_ && worker_->queued() >= kMaxQueuedRequests) {
    return absl::ResourceExhaustedError("too many requests at once");
  }
  const bool made = state_ == State::kCreated || state_ == State::kStarted;
  switch (request.command_case()) {
    case Request::kCreate:
      Create(id, request.create(), std::move(fds));
      return absl::OkStatus();
    case Request::kStart:
    case Request::kPause:
    case Request::kResume: {
      const bool start = request.has_start();
      if (state_ != (start ? State::kCreated : State::kStarted)) {
        Answer(id, absl::FailedPreconditionError(start ? "there is no machine that could start"
                                                       : "the machine has not been started"));
        return absl::OkStatus();
      }
      Change(id, !request.has_pause());
      return absl::OkStatus();
    }
    case Request::kStop:
      Stop(id, request.stop());
      return absl::OkStatus();
    case Request::kGetStatistics:
      if (made) {
        GetStatistics(id);
      } else {
        Answer(id, absl::FailedPreconditionError("there is no machine"));
      }
      return absl::OkStatus();
    case Request::kSave:
      Save(id, request.save(), std::move(fds));
      return absl::OkStatus();
    case Request::kRestore:
      Restore(id, request.restore(), std::move(fds));
      return absl::OkStatus();
    case Request::kGetWorkingSet:
      Answer(id, absl::UnimplementedError("hearth-libvirt does not look into QEMU's memory"));
      return absl::OkStatus();
    default:
      Answer(id, absl::UnimplementedError("hearth-libvirt does not know this request"));
      return absl::OkStatus();
  }
}

void Machine::Change(uint64_t id, bool run) {
  worker_->Do([this, id, run] {
    const absl::Status status = run ? domain_->Resume() : domain_->Suspend();
    context_->loop->Post([this, id, run, status] { OnRunning(id, status, run); });
  });
}

void Machine::OnRunning(uint64_t id, const absl::Status& status, bool run) {
  const bool first = run && status.ok() && state_ == State::kCreated;
  if (first) state_ = State::kStarted;
  if (status.ok()) running_ = run;
  Answer(id, status);
  if (first) SendAgent();
}

void Machine::Save(uint64_t id, const vmm::v1::SaveMachine& request, std::vector<UniqueFd> fds) {
  if (state_ != State::kStarted || running_) {
    return Answer(id, absl::FailedPreconditionError("only a paused machine can be saved"));
  }
  if (request.state_fd() >= fds.size() || request.memory_fd() >= fds.size() ||
      request.state_fd() == request.memory_fd()) {
    return Answer(id, absl::InvalidArgumentError("SaveMachine without its two descriptors"));
  }
  auto files = std::make_shared<std::vector<UniqueFd>>(std::move(fds));
  worker_->Do([this, id, files, state = request.state_fd(), memory = request.memory_fd()] {
    const std::string path = context_->files->ImageFile(name_);
    absl::Status status = domain_->Save(path);
    if (status.ok()) {
      status = WriteSaved(description_, path, (*files)[state].get(), (*files)[memory].get());
    }
    unlink(path.c_str());
    // The domain's end, of which libvirt tells, is the machine's.
    context_->loop->Post([this, id, status] { Answer(id, status); });
  });
}

void Machine::OnAgent(UniqueFd connection) {
  if (state_ == State::kEnding || agent_sent_) return;
  agent_ = std::move(connection);  // One that has dialled again has given the former up.
  if (state_ == State::kStarted) SendAgent();
}

// A port's other end, out of which comes what the agent writes when it is ready, or the connection
// that it has dialled.
void Machine::SendAgent() {
  if (!agent_) return;
  agent_sent_ = true;
  vmm::v1::Frame frame;
  vmm::v1::VsockConnection& connection = *frame.mutable_event()->mutable_vsock_connection();
  connection.set_port(wire::kAgentHostPort);
  connection.set_fd(0);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(agent_));
  Send(frame, std::move(fds));
}

void Machine::Stop(uint64_t id, const vmm::v1::StopMachine& request) {
  Answer(id, absl::OkStatus());
  if (request.forced() || state_ != State::kStarted) {
    return End(vmm::v1::Exited::REASON_STOPPED, "it was stopped");
  }
  EndLater(uint64_t{request.timeout_ms()} * 1'000'000, vmm::v1::Exited::REASON_STOPPED,
           "it was stopped: the guest did not reset in time");
}

void Machine::GetStatistics(uint64_t id) {
  worker_->Do([this, id] {
    absl::StatusOr<BlockBytes> moved = absl::UnavailableError("the machine has ended");
    if (domain_.has_value()) moved = domain_->GetBlockBytes();
    context_->loop->Post([this, id, moved = std::move(moved)] {
      if (!moved.ok()) return Answer(id, moved.status());
      vmm::v1::Response response;
      vmm::v1::Statistics& statistics = *response.mutable_statistics();
      statistics.set_process_cpu_ns(CpuNs(process_));
      statistics.set_block_read_bytes(moved->read);
      statistics.set_block_write_bytes(moved->written);
      if (console_) statistics.set_console_dropped_bytes(console_->dropped_bytes());
      Answer(id, absl::OkStatus(), std::move(response));
    });
  });
}

void Machine::OnDomainEnded(DomainEnd end) {
  // libvirt tells of an end once QEMU is gone, and it may tell late: a saved domain is restored
  // under the name that another had.
  if (state_ == State::kCreating || Runs()) return;
  switch (end) {
    case DomainEnd::kGuestReset:
      return End(vmm::v1::Exited::REASON_GUEST_RESET, "the guest reset itself");
    case DomainEnd::kDestroyed:
      return End(vmm::v1::Exited::REASON_STOPPED, "its domain was destroyed");
    case DomainEnd::kSaved:
      return End(vmm::v1::Exited::REASON_STOPPED, "it was saved, which ends its domain");
    case DomainEnd::kCrashed:
      return End(vmm::v1::Exited::REASON_GUEST_FAULT, "libvirt says that the guest crashed");
    case DomainEnd::kFailed:
      // How QEMU ended is told when it is reaped.
      return End(vmm::v1::Exited::REASON_HOST_ERROR, "QEMU ended unexpectedly");
  }
}

void Machine::OnReaped(const Reaped& reaped) { reaped_ = reaped; }

// libvirt's event, which knows the reason, comes about now as well. It is waited for, but not for
// ever: it must not be the only one that tells.
void Machine::OnProcessEnded() {
  context_->loop->Remove(process_.pidfd.get());
  if (state_ == State::kEnding) return;
  EndLater(kEventTimeoutNs, vmm::v1::Exited::REASON_HOST_ERROR, "QEMU ended unexpectedly");
}

void Machine::EndLater(uint64_t delay_ns, vmm::v1::Exited::Reason reason,
                       const std::string& detail) {
  auto timer = Timer::Create(context_->loop, [this, reason, detail] { End(reason, detail); });
  if (!timer.ok()) return End(reason, detail);
  timer_ = *std::move(timer);
  timer_->Arm(std::max<uint64_t>(1, delay_ns));
}

void Machine::End(vmm::v1::Exited::Reason reason, const std::string& detail) {
  if (state_ == State::kEnding) return;
  state_ = State::kEnding;
  if (timer_) timer_->Disarm();
  why_.set_reason(reason);
  why_.set_detail(detail);
  if (!worker_) return context_->loop->Post([this] { Finish(0); });
  worker_->Do([this] { TearDown(); });
  KillLater();
}

// What the worker is at may wait for a QEMU that does not answer, for ever; when QEMU has gone, it
// fails.
void Machine::KillLater() {
  auto timer = Timer::Create(context_->loop, [this] {
    KillQemu();
    killer_->Arm(kKillAfterNs);  // It may have been about to start.
  });
  if (!timer.ok()) return KillQemu();
  killer_ = *std::move(timer);
  killer_->Arm(kKillAfterNs);
}

void Machine::KillQemu() {
  // What fails is seen by TearDown(), which waits for the end.
  if (process_.pidfd) return Kill(process_).IgnoreError();
  for (const QemuProcess& process : QemusOf(name_)) Kill(process).IgnoreError();
}

void Machine::TearDown() {
  uint64_t cpu_ns = 0;
  if (domain_.has_value()) {
    cpu_ns = qemu_.pidfd ? CpuNs(qemu_) : 0;
    absl::Status destroyed = domain_->Destroy();
    // A daemon that is gone destroys nothing, and may not know of it when it is back.
    if (!destroyed.ok()) destroyed = EndQemuOf(name_);
    if (qemu_.pidfd && !AwaitEnd(qemu_, kProcessEndTimeoutMs)) {
      context_->loop->Post([this, destroyed] {
        why_.set_detail(absl::StrCat(why_.detail(), "; QEMU is still there: ",
                                     destroyed.ok() ? "it does not end" : destroyed.message()));
      });
    }
    domain_.reset();
  }
  if (!name_.empty()) {
    context_->files->RemoveFiles(name_);
    RemoveLog(context_->uri, name_);
  }
  context_->loop->Post([this, cpu_ns] { Finish(cpu_ns); });
}

void Machine::Finish(uint64_t cpu_ns) {
  killer_.reset();
  context_->reap();  // OnReaped() of this one is among what that calls.
  context_->domains->erase(name_);
  name_.clear();
  if (console_) console_->Drain();
  launcher::v1::Exited exited;
  exited.set_cpu_ns(cpu_ns);
  if (reaped_.has_value()) {
    exited.set_exit_code(reaped_->exit_code);
    exited.set_signal(reaped_->signal);
    exited.set_cpu_ns(std::max(cpu_ns, reaped_->cpu_ns));
    exited.set_peak_rss_bytes(reaped_->peak_rss_bytes);
    if (why_.reason() == vmm::v1::Exited::REASON_HOST_ERROR && reaped_->signal != 0) {
      why_.set_detail(absl::StrCat("QEMU was ended by signal ", reaped_->signal, " (",
                                   strsignal(reaped_->signal), ")"));
    }
  }
  vmm::v1::Frame frame;
  *frame.mutable_event()->mutable_exited() = why_;
  Send(frame);
  on_end_(exited);
}

absl::Status Machine::EndingStatus() const {
  return absl::UnavailableError(absl::StrCat("the machine is ending: ", why_.detail()));
}

void Machine::Answer(uint64_t id, const absl::Status& status, vmm::v1::Response response,
                     std::vector<UniqueFd> fds) {
  response.set_id(id);
  if (!status.ok()) {
    response.mutable_error()->set_code(static_cast<int>(status.code()));
    response.mutable_error()->set_message(std::string(status.message()));
  }
  vmm::v1::Frame frame;
  *frame.mutable_response() = std::move(response);
  Send(frame, std::move(fds));
}

void Machine::Send(const vmm::v1::Frame& frame, std::vector<UniqueFd> fds) {
  if (!connected_) return;
  absl::Status sent = socket_.Send(frame.SerializeAsString(), std::move(fds));
  if (sent.ok()) sent = WatchForWriting();
  if (sent.ok()) return;
  connected_ = false;
  context_->loop->Remove(socket_.fd());
  End(vmm::v1::Exited::REASON_STOPPED, absl::StrCat("its control socket: ", sent.message()));
}

absl::Status Machine::WatchForWriting() {
  if (socket_.wants_write() == watches_writing_) return absl::OkStatus();
  watches_writing_ = socket_.wants_write();
  return context_->loop->Modify(socket_.fd(), watches_writing_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

}  // namespace hearth::libvirt
