// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/vmm_process.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"
#include "wire/handshake.h"
#include "wire/limits.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

// The loop serves every machine's VMM, and one that its guest has taken over may send without end:
// what is read at once is bounded. At an end it is what a socket's buffer holds at most, for the
// Exited event may come last: some 300 frames, each of which brings a descriptor.
constexpr int kFramesPerTurn = 32;
constexpr int kFramesAtEnd = 512;
// Of a text of the VMM's, which may come to a client.
constexpr size_t kMaxVmmTextBytes = 1024;
constexpr size_t kMaxBuildBytes = 64;  // It is kept with each snapshot.

MachineExit::Reason ReasonOf(vmm::v1::Exited::Reason reason) {
  switch (reason) {
    case vmm::v1::Exited::REASON_GUEST_RESET:
      return MachineExit::Reason::kGuestReset;
    case vmm::v1::Exited::REASON_STOPPED:
      return MachineExit::Reason::kStopped;
    case vmm::v1::Exited::REASON_GUEST_FAULT:
      return MachineExit::Reason::kGuestFault;
    default:
      return MachineExit::Reason::kHostError;
  }
}

absl::Status StatusOf(const vmm::v1::Error& error) {
  constexpr int kLastCode = static_cast<int>(absl::StatusCode::kUnauthenticated);
  const bool known = error.code() > 0 && error.code() <= kLastCode;
  return absl::Status(
      known ? static_cast<absl::StatusCode>(error.code()) : absl::StatusCode::kUnknown,
      absl::StrCat("the VMM: ", wire::SanitizeText(error.message(), kMaxVmmTextBytes)));
}

}  // namespace

absl::Status VmmProcess::SendHello(const std::string& build) {
  vmm::v1::Frame hello;
  hello.mutable_hello()->set_min_version(versions_.min);
  hello.mutable_hello()->set_max_version(versions_.max);
  hello.mutable_hello()->set_build(build);
  return socket_.Send(hello.SerializeAsString());
}

absl::Status VmmProcess::SendOrder(Order order, uint64_t* id) {
  *id = ++last_request_;
  order.request.set_id(*id);
  if (order.tells_process) create_ = *id;
  vmm::v1::Frame frame;
  *frame.mutable_request() = std::move(order.request);
  answers_[*id] = std::nullopt;
  return socket_.Send(frame.SerializeAsString(), std::move(order.fds));
}

absl::Status VmmProcess::Launch(uint32_t memory_mib, UniqueFd control, absl::Time deadline) {
  uint64_t id = 0;
  ASSIGN_OR_RETURN(LauncherClient::Process spawned,
                   launcher_->Spawn(
                       memory_mib, std::move(control),
                       [self = shared_from_this()](const launcher::v1::Exited* exited) {
                         self->OnLauncherExited(exited);
                       },
                       &id, deadline));
  {
    absl::MutexLock lock(&mutex_);
    launcher_id_ = id;
    process_ = std::move(spawned);
    if (killed_ || !channel_.ok()) launcher_->Kill(id);
  }
  loop_->Post([self = shared_from_this()] {
    absl::MutexLock lock(&self->mutex_);
    if (self->end_.has_value()) return;
    const absl::Status added =
        self->loop_->Add(self->socket_.fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                         [self](uint32_t events) { self->OnEvents(events); });
    if (!added.ok()) self->ChannelFailed(added);
  });
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<VmmProcess>> VmmProcess::Spawn(
    EventLoop* loop, std::shared_ptr<LauncherClient> launcher, const Greeting& greeting,
    uint32_t memory_mib, Order first, absl::Time deadline) {
  ASSIGN_OR_RETURN(auto ends, wire::MakeSocketPair());
  std::shared_ptr<VmmProcess> process(
      new VmmProcess(loop, std::move(launcher), greeting.versions, std::move(ends.first)));
  {
    absl::MutexLock lock(&process->mutex_);
    RETURN_IF_ERROR(process->SendHello(greeting.build));
    uint64_t id = 0;
    RETURN_IF_ERROR(process->SendOrder(std::move(first), &id));
  }
  RETURN_IF_ERROR(process->Launch(memory_mib, std::move(ends.second), deadline));
  return process;
}

absl::StatusOr<std::shared_ptr<VmmProcess>> VmmProcess::SpawnWaiting(
    EventLoop* loop, std::shared_ptr<LauncherClient> launcher, const Greeting& greeting,
    absl::Time deadline) {
  ASSIGN_OR_RETURN(auto ends, wire::MakeSocketPair());
  std::shared_ptr<VmmProcess> process(
      new VmmProcess(loop, std::move(launcher), greeting.versions, std::move(ends.first)));
  {
    absl::MutexLock lock(&process->mutex_);
    RETURN_IF_ERROR(process->SendHello(greeting.build));
  }
  RETURN_IF_ERROR(process->Launch(/*memory_mib=*/0, std::move(ends.second), deadline));
  absl::Status greeted;
  {
    absl::MutexLock lock(&process->mutex_);
    while (!process->greeted_ && process->channel_.ok() && !process->end_.has_value()) {
      if (process->changed_.WaitWithDeadline(&process->mutex_, deadline) && !process->greeted_) {
        process->ChannelFailed(absl::DeadlineExceededError("no Hello in time"));
      }
    }
    if (!process->greeted_ || !process->channel_.ok()) greeted = process->EndedStatus();
  }
  if (greeted.ok()) return process;
  process->Kill();
  return greeted;
}

absl::StatusOr<vmm::v1::Response> VmmProcess::Employ(uint32_t memory_mib, Order order,
                                                     absl::Time deadline) {
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    id = launcher_id_;
  }
  // Before there is a guest, whatever the launcher takes: until then nothing needs the limit.
  launcher_->SetMemory(id, memory_mib);
  return Call(std::move(order), deadline);
}

bool VmmProcess::alive() const {
  absl::MutexLock lock(&mutex_);
  if (!channel_.ok() || end_.has_value()) return false;
  // The kernel knows of an end before anybody has told.
  pollfd process{process_.pidfd.get(), POLLIN, 0};
  return poll(&process, 1, /*timeout=*/0) == 0;
}

bool VmmProcess::IsAmong(const LauncherClient* launcher, const std::set<uint64_t>& running) const {
  absl::MutexLock lock(&mutex_);
  return launcher_.get() == launcher && running.count(launcher_id_) != 0;
}

void VmmProcess::OnEvents(uint32_t events) {
  absl::MutexLock lock(&mutex_);
  if ((events & EPOLLOUT) != 0 && channel_.ok()) {
    // When the peer is gone, what it sent before is still to be read.
    socket_.Flush().IgnoreError();
  }
  if (!ReadFrames(kFramesPerTurn) || reads_on_) return;
  // No other edge need come for what is there already: it is read once the others had their turn.
  reads_on_ = true;
  loop_->Post([self = shared_from_this()] {
    {
      absl::MutexLock posted(&self->mutex_);
      self->reads_on_ = false;
    }
    self->OnEvents(0);
  });
}

bool VmmProcess::ReadFrames(int at_most) {
  for (int i = 0; i < at_most && channel_.ok(); ++i) {
    absl::StatusOr<std::optional<wire::FdFrame>> frame = socket_.TryReceive();
    if (frame.ok() && !frame->has_value()) return false;
    const absl::Status handled = frame.ok() ? Handle(**std::move(frame)) : frame.status();
    if (!handled.ok()) ChannelFailed(handled);
  }
  return channel_.ok();
}

absl::Status VmmProcess::Handle(wire::FdFrame received) {
  vmm::v1::Frame frame;
  if (!frame.ParseFromString(received.payload)) {
    return absl::InvalidArgumentError("it sent a frame that is none of hearth.vmm.v1");
  }
  if (!greeted_) {
    if (!frame.has_hello()) return absl::InvalidArgumentError("it did not begin with Hello");
    greeted_ = true;
    greeted_at_ = SteadyNow();
    build_ = wire::SanitizeText(frame.hello().build(), kMaxBuildBytes);
    changed_.SignalAll();
    return wire::NegotiateVersion("hearth.vmm.v1", "the VMM", versions_,
                                  {frame.hello().min_version(), frame.hello().max_version()})
        .status();
  }
  if (frame.has_event()) return HandleEvent(frame.event(), std::move(received.fds));
  if (!frame.has_response()) return absl::InvalidArgumentError("it sent an unknown frame");
  const auto it = answers_.find(frame.response().id());
  if (it == answers_.end() || it->second.has_value()) {
    return absl::InvalidArgumentError("it answered what was not asked");
  }
  if (frame.response().id() == create_ && frame.response().created().has_process()) {
    RETURN_IF_ERROR(HandleCreated(frame.response().created(), std::move(received.fds)));
  }
  it->second = std::move(*frame.mutable_response());
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::Status VmmProcess::HandleCreated(const vmm::v1::MachineCreated& created,
                                       std::vector<UniqueFd> fds) {
  if (created.process().pidfd() >= fds.size()) {
    return absl::InvalidArgumentError("it told of a process without its descriptor");
  }
  guest_.pid = created.process().pid();
  guest_.pidfd = std::move(fds[created.process().pidfd()]);
  return absl::OkStatus();
}

absl::Status VmmProcess::HandleEvent(const vmm::v1::Event& event, std::vector<UniqueFd> fds) {
  if (event.has_exited()) {
    if (told_.has_value()) return absl::InvalidArgumentError("it told of its end twice");
    told_ = {ReasonOf(event.exited().reason()),
             wire::SanitizeText(event.exited().detail(), kMaxVmmTextBytes)};
    return absl::OkStatus();
  }
  // What later versions of the protocol have is sent in a session of such a version only.
  if (!event.has_vsock_connection()) return absl::InvalidArgumentError("it sent an unknown event");
  const vmm::v1::VsockConnection& connection = event.vsock_connection();
  if (connection.fd() >= fds.size()) {
    return absl::InvalidArgumentError("it sent a connection without its descriptor");
  }
  if (connection.port() != wire::kAgentHostPort) {
    return absl::InvalidArgumentError("it sent a connection to a port that it was not given");
  }
  // The agent dials once; whoever in the guest dials again is turned away.
  if (agent_) return absl::OkStatus();
  agent_ = std::move(fds[connection.fd()]);
  if (fcntl(agent_.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl(O_NONBLOCK)");
  changed_.SignalAll();
  return absl::OkStatus();
}

void VmmProcess::ChannelFailed(const absl::Status& why) {
  if (!channel_.ok()) return;
  channel_ = Annotate(why, "the VMM's control socket");
  changed_.SignalAll();
  // It is about to end, or good for nothing any more.
  if (launcher_id_ != 0) launcher_->Kill(launcher_id_);
}

absl::Status VmmProcess::EndedStatus() const {
  if (end_.has_value()) {
    // Why we ended it says more than that we did.
    const bool breach = absl::IsInvalidArgument(channel_) || absl::IsFailedPrecondition(channel_);
    return absl::UnavailableError(
        absl::StrCat("the machine has ended: ", breach ? channel_.message() : end_->detail));
  }
  if (told_.has_value()) {
    return absl::UnavailableError(absl::StrCat("the machine is ending: ", told_->detail));
  }
  return channel_;
}

absl::StatusOr<vmm::v1::Response> VmmProcess::Await(uint64_t id, absl::Time deadline) {
  while (!answers_[id].has_value() && !end_.has_value()) {
    if (changed_.WaitWithDeadline(&mutex_, deadline) && !answers_[id].has_value() &&
        !end_.has_value()) {
      ChannelFailed(absl::DeadlineExceededError("no answer in time"));
      break;
    }
  }
  const std::optional<vmm::v1::Response> answer = std::move(answers_[id]);
  answers_.erase(id);
  if (!answer.has_value()) return EndedStatus();
  if (answer->has_error()) return StatusOf(answer->error());
  return *answer;
}

absl::Status VmmProcess::AwaitFirst(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  return Await(1, deadline).status();
}

absl::StatusOr<vmm::v1::Response> VmmProcess::Call(Order order, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  if (end_.has_value() || !channel_.ok()) return EndedStatus();
  uint64_t id = 0;
  if (const absl::Status sent = SendOrder(std::move(order), &id); !sent.ok()) {
    ReadFrames(kFramesAtEnd);  // It may have told why it went.
    ChannelFailed(sent);
  }
  return Await(id, deadline);
}

absl::StatusOr<UniqueFd> VmmProcess::OpenPagemap(absl::Time deadline) {
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return EndedStatus();
    id = launcher_id_;
  }
  return launcher_->OpenPagemap(id, deadline);
}

absl::StatusOr<UniqueFd> VmmProcess::AcceptAgent(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (!agent_ && !end_.has_value()) {
    if (changed_.WaitWithDeadline(&mutex_, deadline) && !agent_ && !end_.has_value()) {
      return absl::DeadlineExceededError("the guest's agent did not connect in time");
    }
  }
  if (!agent_) return EndedStatus();
  return std::move(agent_);
}

std::string VmmProcess::build() const {
  absl::MutexLock lock(&mutex_);
  return build_;
}

absl::Time VmmProcess::greeted_at() const {
  absl::MutexLock lock(&mutex_);
  return greeted_at_;
}

void VmmProcess::Kill() {
  absl::MutexLock lock(&mutex_);
  ReadFrames(kFramesAtEnd);
  // One whose control socket has closed already ended by itself, and is to be told so.
  if (channel_.ok()) killed_ = true;
  if (launcher_id_ != 0 && !end_.has_value()) launcher_->Kill(launcher_id_);
}

bool VmmProcess::AwaitEnd(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (!end_.has_value()) {
    if (changed_.WaitWithDeadline(&mutex_, deadline)) return end_.has_value();
  }
  return true;
}

void VmmProcess::EndByForce(absl::Duration answer_timeout) {
  Kill();
  while (!AwaitEnd(SteadyNow() + answer_timeout)) {
    launcher_->Close(absl::DeadlineExceededError("hearth-launcher did not end a VMM in time"));
  }
}

void VmmProcess::OnExit(std::function<void(const MachineExit&)> callback) {
  std::optional<MachineExit> end;
  {
    absl::MutexLock lock(&mutex_);
    if (!end_.has_value()) {
      on_exit_ = std::move(callback);
      return;
    }
    end = end_;
  }
  callback(*end);
}

bool VmmProcess::EndsWithAnyOf(const std::vector<int>& pidfds, const MachineExit& exit) {
  if (pidfds.front() < 0) return false;  // Nothing runs yet.
  const auto finish = [self = shared_from_this(), pidfds, exit](uint32_t) {
    for (const int pidfd : pidfds) self->loop_->Remove(pidfd);
    self->Finish(exit);
  };
  for (const int pidfd : pidfds) {
    if (!loop_->Add(pidfd, EPOLLIN, finish).ok()) return false;
  }
  return true;
}

void VmmProcess::OnLauncherExited(const launcher::v1::Exited* exited) {
  MachineExit exit;
  {
    absl::MutexLock lock(&mutex_);
    ReadFrames(kFramesAtEnd);
    if (exited == nullptr) {
      // Nobody reaps it for us now, but its pidfd still tells. The VMM ends with its launcher, and
      // when its control socket closes.
      channel_ = absl::UnavailableError("the launcher was lost");
      loop_->Remove(socket_.fd());
      socket_ = wire::FdSocket(UniqueFd());
      changed_.SignalAll();
      exit.detail = "the launcher was lost";
      // Where another process runs the guest, ours is the launcher's own: it need not end, and if
      // it does, the guest's need not.
      if (EndsWithAnyOf(create_ != 0 ? std::vector<int>{guest_.pidfd.get(), process_.pidfd.get()}
                                     : std::vector<int>{process_.pidfd.get()},
                        exit)) {
        return;
      }
    } else {
      // Who does not reap a process may not know its time when it was killed.
      final_cpu_ = std::max(final_cpu_, absl::Nanoseconds(exited->cpu_ns()));
      if (told_.has_value()) {
        exit = *told_;
      } else if (killed_) {
        exit = {MachineExit::Reason::kStopped, "it was ended by force"};
      } else if (exited->signal() != 0) {
        exit.detail = absl::StrCat("the VMM was ended by signal ", exited->signal(), " (",
                                   strsignal(exited->signal()), ")");
      } else {
        exit.detail = absl::StrCat("the VMM exited with code ", exited->exit_code());
      }
    }
  }
  Finish(exit);
}

void VmmProcess::Finish(const MachineExit& exit) {
  std::function<void(const MachineExit&)> callback;
  {
    absl::MutexLock lock(&mutex_);
    if (end_.has_value()) return;
    end_ = exit;
    callback = std::exchange(on_exit_, nullptr);
    loop_->Remove(socket_.fd());
    socket_ = wire::FdSocket(UniqueFd());
    if (channel_.ok()) channel_ = EndedStatus();
    changed_.SignalAll();
  }
  if (callback) callback(exit);
}

absl::StatusOr<absl::Duration> VmmProcess::CpuTime() const {
  absl::MutexLock lock(&mutex_);
  if (end_.has_value()) return final_cpu_;
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(Measured().pid, &clock) != 0 || clock_gettime(clock, &time) != 0) {
    return ErrnoStatus("reading a VMM's CPU clock");
  }
  // The number may be another process's by now; the pidfd is not.
  pollfd ended{Measured().pidfd.get(), POLLIN, 0};
  if (poll(&ended, 1, 0) != 0) return absl::UnavailableError("the VMM has just ended");
  return final_cpu_ = absl::DurationFromTimespec(time);
}

uint64_t VmmProcess::ResidentBytes() const {
  absl::MutexLock lock(&mutex_);
  std::ifstream statm(absl::StrCat("/proc/", Measured().pid, "/statm"));
  uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace hearth::control
