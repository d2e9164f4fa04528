// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/control_server.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "vmm/machine/limits.h"
#include "wire/handshake.h"
#include "wire/limits.h"

namespace hearth::vmm {
namespace {

v1::Exited::Reason ToProto(ExitReason reason) {
  switch (reason) {
    case ExitReason::kGuestReset:
      return v1::Exited::REASON_GUEST_RESET;
    case ExitReason::kStopped:
      return v1::Exited::REASON_STOPPED;
    case ExitReason::kGuestFault:
      return v1::Exited::REASON_GUEST_FAULT;
    case ExitReason::kHostError:
      return v1::Exited::REASON_HOST_ERROR;
  }
  return v1::Exited::REASON_UNSPECIFIED;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Create(Options options) {
  std::unique_ptr<ControlServer> server(new ControlServer(std::move(options)));
  RETURN_IF_ERROR(server->options_.loop->Add(
      server->socket_.fd(), EPOLLIN,
      [server = server.get()](uint32_t events) { server->OnSocket(events); }));
  v1::Frame frame;
  frame.mutable_hello()->set_min_version(wire::kVmmMinVersion);
  frame.mutable_hello()->set_max_version(wire::kVmmMaxVersion);
  frame.mutable_hello()->set_build(server->options_.build);
  RETURN_IF_ERROR(server->SendFrame(frame));
  server->vm_ = server->options_.system->CreateVm();
  server->thread_ = VcpuThread::Spawn(server->options_.enter_vcpu_jail);
  return server;
}

ControlServer::~ControlServer() {
  machine_.reset();
  options_.loop->Remove(socket_.fd());
}

void ControlServer::Finish(absl::Status result) {
  if (finished_) return;
  finished_ = true;
  result_ = std::move(result);
  options_.loop->Stop();
}

void ControlServer::OnSocket(uint32_t events) {
  if (finished_) return;
  absl::Status status;
  if ((events & EPOLLOUT) != 0) {
    status = socket_.Flush();
    if (status.ok() && !socket_.wants_write()) {
      if (exit_sent_) return Finish(absl::OkStatus());
      status = options_.loop->Modify(socket_.fd(), EPOLLIN);
    }
  }
  if (status.ok() && (events & ~uint32_t{EPOLLOUT}) != 0) status = ReceiveFrames();
  // Closing the socket is how a controller ends us.
  if (absl::IsUnavailable(status)) return Finish(absl::OkStatus());
  if (!status.ok()) Finish(std::move(status));
}

absl::Status ControlServer::ReceiveFrames() {
  while (!finished_) {
    ASSIGN_OR_RETURN(std::optional<wire::FdFrame> frame, socket_.TryReceive());
    if (!frame.has_value()) break;
    RETURN_IF_ERROR(HandleFrame(*std::move(frame)));
  }
  return absl::OkStatus();
}

absl::Status ControlServer::HandleFrame(wire::FdFrame raw) {
  v1::Frame frame;
  if (!frame.ParseFromString(raw.payload)) {
    return absl::InvalidArgumentError("the controller sent a frame that cannot be parsed");
  }
  if (frame.has_hello() && !greeted_) return HandleHello(frame.hello());
  if (!greeted_) return absl::InvalidArgumentError("the controller did not begin with Hello");
  if (!frame.has_request()) {
    return absl::InvalidArgumentError("the controller sent a frame that is no request");
  }
  return HandleRequest(frame.request(), FrameFds(std::move(raw.fds)));
}

absl::Status ControlServer::HandleHello(const v1::Hello& hello) {
  RETURN_IF_ERROR(wire::NegotiateVersion("hearth.vmm.v1", "the controller",
                                         {wire::kVmmMinVersion, wire::kVmmMaxVersion},
                                         {hello.min_version(), hello.max_version()})
                      .status());
  greeted_ = true;
  return absl::OkStatus();
}

absl::Status ControlServer::HandleRequest(const v1::Request& request, FrameFds fds) {
  v1::Frame frame;
  v1::Response& response = *frame.mutable_response();
  response.set_id(request.id());
  const absl::Status status = Execute(request, fds, response);
  if (!status.ok()) {
    response.clear_result();
    response.mutable_error()->set_code(static_cast<int32_t>(status.code()));
    response.mutable_error()->set_message(std::string(status.message()));
  }
  return SendFrame(frame);
}

absl::Status ControlServer::Execute(const v1::Request& request, FrameFds& fds,
                                    v1::Response& response) {
  if (request.command_case() == v1::Request::kCreate) {
    RETURN_IF_ERROR(CreateMachine(request.create(), fds));
    response.mutable_created();
    return absl::OkStatus();
  }
  if (request.command_case() == v1::Request::kRestore) {
    return RestoreMachine(request.restore(), fds);
  }
  if (machine_ == nullptr) {
    return absl::FailedPreconditionError(
        "there is no machine yet: send CreateMachine first, or RestoreMachine");
  }
  switch (request.command_case()) {
    case v1::Request::kStart:
      return machine_->Start();
    case v1::Request::kPause:
      return machine_->Pause();
    case v1::Request::kResume:
      return machine_->Resume();
    case v1::Request::kStop:
      return StopMachine(request.stop());
    case v1::Request::kConnectVsock: {
      ASSIGN_OR_RETURN(UniqueFd socket, fds.Take(request.connect_vsock().fd(), "connect_vsock.fd"));
      return machine_->ConnectVsock(request.connect_vsock().port(), std::move(socket));
    }
    case v1::Request::kGetStatistics:
      FillStatistics(*response.mutable_statistics());
      return absl::OkStatus();
    case v1::Request::kSave:
      return SaveMachine(request.save(), fds, *response.mutable_saved());
    case v1::Request::kGetWorkingSet:
      return GetWorkingSet(request.get_working_set(), fds, *response.mutable_working_set());
    default:
      return absl::UnimplementedError("this VMM does not know the request");
  }
}

absl::Status ControlServer::CreateMachine(const v1::CreateMachine& request, FrameFds& fds) {
  if (machine_ != nullptr) return absl::FailedPreconditionError("the machine exists already");
  ASSIGN_OR_RETURN(MachineConfig config, ParseCreateRequest(request, fds));
  ASSIGN_OR_RETURN(Machine::Options options, TakeMachineOptions());
  return AdoptMachine(Machine::Create(std::move(config), std::move(options)));
}

absl::Status ControlServer::RestoreMachine(const v1::RestoreMachine& request, FrameFds& fds) {
  if (machine_ != nullptr) return absl::FailedPreconditionError("the machine exists already");
  ASSIGN_OR_RETURN(RestoreConfig config, ParseRestoreRequest(request, fds));
  ASSIGN_OR_RETURN(Machine::Options options, TakeMachineOptions());
  RETURN_IF_ERROR(AdoptMachine(Machine::Restore(std::move(config), std::move(options))));
  return request.resume() ? machine_->Resume() : absl::OkStatus();
}

absl::StatusOr<Machine::Options> ControlServer::TakeMachineOptions() {
  // A request that got this far is not repeated in this process: a half-built machine may have left
  // its mark.
  if (std::exchange(machine_tried_, true)) {
    return absl::FailedPreconditionError(
        "an earlier request for a machine failed; spawn a new VMM");
  }
  RETURN_IF_ERROR(vm_.status());
  RETURN_IF_ERROR(thread_.status());
  Machine::Options options;
  options.system = &*options_.system;
  options.vm = *std::move(vm_);
  vm_ = absl::FailedPreconditionError("the VM is in use");
  options.loop = options_.loop;
  options.exited = [this](const ExitOutcome& outcome) { SendExited(outcome); };
  options.vsock_connection = [this](uint32_t port, uint32_t guest_port, UniqueFd socket) {
    return SendVsockConnection(port, guest_port, std::move(socket));
  };
  options.enter_vcpu_jail = options_.enter_vcpu_jail;
  options.enter_pager_watch_jail = options_.enter_pager_watch_jail;
  options.thread = *std::move(thread_);
  options.log = options_.log;
  return options;
}

absl::Status ControlServer::AdoptMachine(absl::StatusOr<std::unique_ptr<Machine>> machine) {
  RETURN_IF_ERROR(machine.status());
  if (options_.enter_main_jail) RETURN_IF_ERROR(options_.enter_main_jail());
  machine_ = *std::move(machine);
  return absl::OkStatus();
}

absl::Status ControlServer::SaveMachine(const v1::SaveMachine& request, FrameFds& fds,
                                        v1::MachineSaved& saved) {
  ASSIGN_OR_RETURN(const UniqueFd state, fds.Take(request.state_fd(), "save.state_fd"));
  ASSIGN_OR_RETURN(const UniqueFd memory, fds.Take(request.memory_fd(), "save.memory_fd"));
  ASSIGN_OR_RETURN(const SavedSizes sizes, machine_->Save(state.get(), memory.get()));
  saved.set_state_bytes(sizes.state_bytes);
  saved.set_memory_bytes(sizes.memory.bytes);
  saved.set_data_pages(sizes.memory.data_pages);
  return absl::OkStatus();
}

absl::Status ControlServer::GetWorkingSet(const v1::GetWorkingSet& request, FrameFds& fds,
                                          v1::WorkingSet& set) {
  ASSIGN_OR_RETURN(const UniqueFd pagemap, fds.Take(request.pagemap_fd(), "pagemap_fd"));
  ASSIGN_OR_RETURN(const auto runs, machine_->WorkingSet(pagemap.get(), wire::kMaxPageRuns));
  for (const PageRun& run : runs) {
    v1::PageRun& to = *set.add_runs();
    to.set_first_page(static_cast<uint32_t>(run.first_page));
    to.set_page_count(static_cast<uint32_t>(run.page_count));
    to.set_written(run.written);
  }
  return absl::OkStatus();
}

absl::Status ControlServer::StopMachine(const v1::StopMachine& request) {
  if (request.forced()) return machine_->StopForced();
  if (request.timeout_ms() > kMaxStopTimeoutMs) {
    return absl::InvalidArgumentError(
        absl::StrCat("timeout_ms is ", request.timeout_ms(), ", the limit is ", kMaxStopTimeoutMs));
  }
  return machine_->StopOrderly(request.timeout_ms());
}

void ControlServer::FillStatistics(v1::Statistics& statistics) {
  const MachineStatistics now = machine_->Statistics();
  statistics.set_vcpu_cpu_ns(now.vcpu_cpu_ns);
  statistics.set_process_cpu_ns(now.process_cpu_ns);
  statistics.set_exits(now.exits);
  statistics.set_block_read_bytes(now.block_read_bytes);
  statistics.set_block_write_bytes(now.block_write_bytes);
  statistics.set_vsock_rx_bytes(now.vsock_rx_bytes);
  statistics.set_vsock_tx_bytes(now.vsock_tx_bytes);
  statistics.set_console_dropped_bytes(now.console_dropped_bytes);
  statistics.set_guest_errors(now.guest_errors);
  statistics.set_minor_faults(now.minor_faults);
  statistics.set_major_faults(now.major_faults);
}

void ControlServer::SendExited(const ExitOutcome& outcome) {
  v1::Frame frame;
  v1::Exited& exited = *frame.mutable_event()->mutable_exited();
  exited.set_reason(ToProto(outcome.reason));
  exited.set_detail(outcome.detail);
  exit_sent_ = true;
  const absl::Status status = SendFrame(frame);
  if (!status.ok()) return Finish(absl::IsUnavailable(status) ? absl::OkStatus() : status);
  if (!socket_.wants_write()) Finish(absl::OkStatus());
}

absl::Status ControlServer::SendVsockConnection(uint32_t port, uint32_t guest_port,
                                                UniqueFd socket) {
  v1::Frame frame;
  v1::VsockConnection& connection = *frame.mutable_event()->mutable_vsock_connection();
  connection.set_port(port);
  connection.set_guest_port(guest_port);
  connection.set_fd(0);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(socket));
  return SendFrame(frame, std::move(fds));
}

absl::Status ControlServer::SendFrame(const v1::Frame& frame, std::vector<UniqueFd> fds) {
  RETURN_IF_ERROR(socket_.Send(frame.SerializeAsString(), std::move(fds)));
  if (socket_.wants_write()) return options_.loop->Modify(socket_.fd(), EPOLLIN | EPOLLOUT);
  return absl::OkStatus();
}

}  // namespace hearth::vmm
