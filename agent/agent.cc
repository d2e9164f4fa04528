// SPDX-License-Identifier: Apache-2.0
#include "agent/agent.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::Call;
using agent::v1::Reply;

namespace {

constexpr uint32_t kDefaultOpenFiles = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<Agent>> Agent::Create(AgentOptions options, Machine* machine) {
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  ASSIGN_OR_RETURN(Cgroup cgroup, Cgroup::Create(options.cgroup_path));
  RETURN_IF_ERROR(cgroup.DelegateControllers());
  HostConnectionOptions connection = std::move(options.connection);
  std::unique_ptr<Agent> agent(
      new Agent(std::move(options), machine, std::move(loop), std::move(cgroup)));
  Agent* const raw = agent.get();
  ASSIGN_OR_RETURN(raw->supervisor_, Supervisor::Create(raw->loop_.get(), &raw->cgroup_));
  raw->context_.supervisor = raw->supervisor_.get();
  ASSIGN_OR_RETURN(raw->connection_,
                   HostConnection::Create(raw->loop_.get(), std::move(connection), raw));
  raw->context_.mux = raw->connection_->mux();
  return agent;
}

Agent::Agent(AgentOptions options, Machine* machine, std::unique_ptr<EventLoop> loop, Cgroup cgroup)
    : machine_(machine),
      loop_(std::move(loop)),
      runtime_api_port_(options.runtime_api_port),
      cgroup_(std::move(cgroup)),
      snapshots_(&context_, machine, &cgroup_) {
  instance_.boot_id = std::move(options.boot_id);
  context_.loop = loop_.get();
  context_.streams = &streams_;
  context_.logs = &logs_;
  context_.instance = &instance_;
  context_.flush_logs = [this] { FlushLogs(); };
  context_.send_event = [this](agent::v1::Event event) { SendEvent(std::move(event)); };
  processes_ = std::make_unique<ProcessService>(&context_);
}

Agent::~Agent() {
  // Before what their callbacks use.
  supervisor_.reset();
}

absl::Status Agent::Run() {
  while (true) {
    FlushLogs();
    if (logs_.empty() && events_.empty()) snapshots_.LogsFlushed();
    connection_->Flush();
    RETURN_IF_ERROR(connection_->status());
    if (shut_down_ && context_.mux->output().empty()) return absl::OkStatus();
    RETURN_IF_ERROR(loop_->RunOnce());
  }
}

void Agent::FlushLogs() {
  wire::Mux* const mux = context_.mux;
  if (!mux->ready()) return;
  while (!events_.empty()) {
    if (!mux->SendEvent(events_.front()).ok()) return;
    events_.pop_front();
  }
  // Nothing is taken from the buffer that the connection has no room for.
  while (!logs_.empty() && mux->output().size() < wire::kMuxOutputBytes) {
    if (!mux->SendEvent(logs_.TakeEvent()).ok()) return;
  }
}

void Agent::SendEvent(agent::v1::Event event) {
  events_.push_back(std::move(event));
  FlushLogs();
}

void Agent::OnReady(const agent::v1::Hello&, uint32_t) { connection_->Established(); }

void Agent::OnStreamData(uint32_t stream_id, absl::string_view data) {
  auto it = streams_.find(stream_id);
  if (it == streams_.end()) return context_.mux->AbortStream(stream_id, "no one reads this stream");
  it->second->OnData(data);
}

void Agent::OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) {
  auto it = streams_.find(stream_id);
  if (it != streams_.end()) it->second->OnEnd(aborted, reason);
}

void Agent::OnStreamWritable(uint32_t stream_id) {
  auto it = streams_.find(stream_id);
  if (it != streams_.end()) it->second->OnWritable();
}

void Agent::OnCall(Call call) {
  if (shutting_down_) {
    return context_.ReplyError(call.id(), absl::FailedPreconditionError("the agent shuts down"));
  }
  if (!instance_.configured && !call.has_configure_instance() && !call.has_shutdown()) {
    return context_.ReplyError(
        call.id(), absl::FailedPreconditionError("ConfigureInstance has to come first"));
  }
  if (const absl::Status status = snapshots_.Allows(call.command_case()); !status.ok()) {
    return context_.ReplyError(call.id(), status);
  }
  switch (call.command_case()) {
    case Call::kConfigureInstance:
      return HandleConfigure(call.id(), call.configure_instance());
    case Call::kStartProcess:
      return processes_->Start(call.id(), call.start_process());
    case Call::kSignalProcess:
      return processes_->Signal(call.id(), call.signal_process());
    case Call::kWaitProcess:
      return processes_->Wait(call.id(), call.wait_process());
    case Call::kGetProcessUsage:
      return processes_->Usage(call.id(), call.get_process_usage());
    case Call::kStartRuntime:
      return HandleStartRuntime(call.id(), call.start_runtime());
    case Call::kInvoke:
      return HandleInvoke(call.id(), call.invoke());
    case Call::kCancelInvocation:
      return HandleCancel(call.id(), call.cancel_invocation());
    case Call::kShutdown:
      return HandleShutdown(call.id());
    case Call::kPrepareSnapshot:
      return snapshots_.Prepare(call.id(), call.prepare_snapshot(), api_.get(), stdio_.get());
    case Call::kRestoreInstance:
      return snapshots_.Restore(call.id(), call.restore_instance());
    case Call::COMMAND_NOT_SET:
      break;  // The multiplexer lets none through.
  }
  context_.ReplyError(call.id(), absl::UnimplementedError("an unknown command"));
}

absl::Status Agent::Configure(const agent::v1::ConfigureInstance& configure) {
  if (instance_.configured) return absl::FailedPreconditionError("the instance is configured");
  ASSIGN_OR_RETURN(ConfiguredMachine machine, machine_->Configure(configure));
  RETURN_IF_ERROR(cgroup_.SetLimits(machine.limits));
  instance_.sandbox.root = std::move(machine.user_root);
  instance_.sandbox.boot_id_file = std::move(machine.boot_id_file);
  const uint32_t files = configure.limits().open_files();
  instance_.sandbox.open_files = files == 0 ? kDefaultOpenFiles : files;
  instance_.environment = {configure.environment().begin(), configure.environment().end()};
  instance_.configured = true;
  return absl::OkStatus();
}

void Agent::HandleConfigure(uint64_t call_id, const agent::v1::ConfigureInstance& configure) {
  if (const absl::Status status = Configure(configure); !status.ok()) {
    return context_.ReplyError(call_id, status);
  }
  Reply reply;
  reply.set_id(call_id);
  context_.Reply(reply);
}

void Agent::HandleStartRuntime(uint64_t call_id, const agent::v1::StartRuntime& start) {
  switch (start.interface()) {
    case agent::v1::StartRuntime::INTERFACE_RUNTIME_API:
      if (stdio_ != nullptr) break;
      if (api_ == nullptr) api_ = std::make_unique<ApiRuntime>(&context_, runtime_api_port_);
      return api_->Start(call_id, start);
    case agent::v1::StartRuntime::INTERFACE_STDIO:
      if (api_ != nullptr || stdio_ != nullptr) break;
      stdio_ = std::make_unique<StdioRuntime>(&context_);
      return stdio_->Start(call_id, start);
    default:
      return context_.ReplyError(call_id, absl::InvalidArgumentError("an unknown interface"));
  }
  context_.ReplyError(call_id, absl::FailedPreconditionError("a runtime was started already"));
}

void Agent::HandleInvoke(uint64_t call_id, const agent::v1::Invoke& invoke) {
  if (invoke.invocation_id().empty()) {
    return context_.ReplyError(call_id, absl::InvalidArgumentError("an invocation without an id"));
  }
  if (const absl::Status status = machine_->CatchUp(invoke.wall_clock_unix_ns()); !status.ok()) {
    return context_.ReplyError(call_id, status);
  }
  if (stdio_ != nullptr) return stdio_->Invoke(call_id, invoke);
  if (api_ != nullptr) return api_->Invoke(call_id, invoke);
  context_.ReplyError(call_id, absl::FailedPreconditionError("StartRuntime has to come first"));
}

void Agent::HandleCancel(uint64_t call_id, const agent::v1::CancelInvocation& cancel) {
  const bool found = (stdio_ != nullptr && stdio_->Cancel(cancel.invocation_id())) ||
                     (api_ != nullptr && api_->Cancel(cancel.invocation_id()));
  if (!found) {
    return context_.ReplyError(call_id, absl::NotFoundError(absl::StrCat(
                                            "no invocation ", cancel.invocation_id(), " runs")));
  }
  Reply reply;
  reply.set_id(call_id);
  context_.Reply(reply);
}

void Agent::HandleShutdown(uint64_t call_id) {
  shutting_down_ = true;
  supervisor_->KillAll([this, call_id] {
    Reply reply;
    reply.set_id(call_id);
    context_.Reply(reply);
    shut_down_ = true;
  });
}

}  // namespace hearth::agent
