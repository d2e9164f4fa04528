// SPDX-License-Identifier: Apache-2.0
// How an instance is booted; instance_restore.cc is the other way.
#include <sys/random.h>

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "control-plane/node/instance.h"
#include "control-plane/node/names.h"
#include "control-plane/node/sanitize.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// The agent's own image is the root; Debian's kernels need nothing more to find it. A guest that
// ends resets (reboot=t: by triple fault, the shortest way) instead of waiting for someone to look.
constexpr char kCommandLine[] =
    "root=/dev/vda ro rootfstype=erofs init=/hearth-agent console=ttyS0 quiet loglevel=4 "
    "reboot=t panic=-1 random.trust_cpu=on tsc=reliable no_timer_check i8042.noaux i8042.nokbd";

constexpr char kAgentSerial[] = "agent";
constexpr char kRuntimeSerial[] = "runtime";
constexpr char kCodeSerial[] = "code";
constexpr char kDiskFilesystem[] = "erofs";
constexpr char kInstanceIdVariable[] = "HEARTH_INSTANCE_ID";
constexpr char kInitFailed[] = "the function failed to initialise";
constexpr size_t kHostnameIdBytes = 12;  // Of a UUID's end, its most random part.

const ImageFile& KernelOf(const LocalNodeConfig& config, const VersionDescription& version) {
  return version.kernel.path.empty() ? config.kernel : version.kernel;
}

const ImageFile& AgentOf(const LocalNodeConfig& config, const VersionDescription& version) {
  return version.agent.path.empty() ? config.agent : version.agent;
}

}  // namespace

absl::StatusOr<std::string> RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t filled = 0; filled < count;) {
    const ssize_t got = getrandom(bytes.data() + filled, count - filled, 0);
    if (got < 0 && errno != EINTR) return ErrnoStatus("getrandom");
    if (got > 0) filled += static_cast<size_t>(got);
  }
  return bytes;
}

absl::Status FunctionFailed(absl::string_view what, const hearth::v1::FunctionError& error) {
  absl::Status status =
      absl::FailedPreconditionError(absl::StrCat(what, ": ", error.type(), ": ", error.message()));
  status.SetPayload(kFunctionErrorPayload, absl::Cord(error.SerializeAsString()));
  return status;
}

hearth::snapshot::v1::Images ImagesOf(const LocalNodeConfig& config,
                                      const VersionDescription& version) {
  hearth::snapshot::v1::Images images;
  images.set_kernel(KernelOf(config, version).digest);
  images.set_agent(AgentOf(config, version).digest);
  images.set_runtime(version.runtime.image.digest);
  images.set_code(version.code_disk.digest);
  return images;
}

std::vector<MachineDisk> DisksOf(const LocalNodeConfig& config, const VersionDescription& version) {
  return {{AgentOf(config, version).path, true, kAgentSerial},
          {version.runtime.image.path, true, kRuntimeSerial},
          {version.code_disk.path, true, kCodeSerial}};
}

std::string Instance::Hostname() const {
  return absl::StrCat("hearth-", id_.substr(id_.size() - std::min(id_.size(), kHostnameIdBytes)));
}

std::map<std::string, std::string> Instance::Environment() const {
  std::map<std::string, std::string> environment = version_->runtime.environment;
  for (const auto& [key, value] : version_->environment) environment[key] = value;
  // Its memory goes to the disk, and into every instance.
  if (to_be_saved_) return environment;
  for (const auto& [key, value] : version_->secrets) environment[key] = value;
  environment[kInstanceIdVariable] = id_;
  return environment;
}

absl::Status Instance::Boot(const Cancellation& cancellation, bool to_be_saved) {
  const Cancellation::Registration registration = cancellation.OnCancel([this] { Kill(); });
  const absl::Time deadline = SteadyNow() + context_->config->boot_timeout;
  to_be_saved_ = to_be_saved;
  absl::Status status =
      MakeMachine([this](UniqueFd console) { return Create(std::move(console)); });
  if (status.ok()) status = machine()->Start();
  if (status.ok()) status = Connect(deadline);
  if (status.ok()) status = Configure(deadline);
  return status.ok() ? status : Explain(status, "starting an instance", cancellation);
}

absl::StatusOr<std::unique_ptr<Machine>> Instance::Create(UniqueFd console) {
  MachineSpec spec;
  spec.id = id_;
  spec.memory_mib = version_->memory_mib;
  spec.kernel_path = KernelOf(*context_->config, *version_).path;
  spec.command_line = kCommandLine;
  if (!context_->config->kernel_parameters.empty()) {
    absl::StrAppend(&spec.command_line, " ", context_->config->kernel_parameters);
  }
  spec.disks = DisksOf(*context_->config, *version_);
  spec.console = std::move(console);
  spec.to_be_saved = to_be_saved_;
  return context_->config->backend->Create(std::move(spec));
}

absl::StatusOr<UniqueFd> Instance::MakeConsole() {
  UniqueFd console;
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(console_, ConsoleTail::Start(context_->loop, &console));
  return console;
}

absl::Status Instance::MakeMachine(const MachineMaker& maker) {
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return absl::UnavailableError("the instance was ended");
    making_ = true;
  }
  absl::StatusOr<UniqueFd> console = MakeConsole();
  absl::StatusOr<std::unique_ptr<Machine>> made =
      console.ok() ? maker(*std::move(console)) : console.status();
  Machine* created = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    making_ = false;
    changed_.SignalAll();
    if (!made.ok()) return made.status();
    machine_ = *std::move(made);
    created = machine_.get();
    if (ended_) return absl::UnavailableError("the instance was ended");
    exit_expected_ = true;
  }
  // Terminate() waits for it, so that this outlives it and the backend's thread never holds the
  // last reference to its own machine.
  created->OnExit([this](const MachineExit& exit) { OnMachineExit(exit); });
  return absl::OkStatus();
}

absl::Status Instance::Connect(absl::Time deadline) {
  ASSIGN_OR_RETURN(UniqueFd stream, machine()->AcceptAgent(deadline));
  AgentSessionOptions options;
  options.build = context_->config->build;
  options.on_log = [weak = weak_from_this()](const agent::v1::LogLines& lines) {
    if (const auto self = weak.lock()) self->logs_.Tell(lines, absl::Now());
  };
  options.on_unusable = [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->BecomeUnusable();
  };
  std::shared_ptr<AgentSession> agent =
      AgentSession::Start(context_->loop, std::move(stream), std::move(options));
  bool ended;
  {
    absl::MutexLock lock(&mutex_);
    session_ = agent;
    ended = ended_ || exit_.has_value();
  }
  if (ended) agent->CloseAfterReading(absl::UnavailableError("the instance was ended"));
  return agent->WaitReady(deadline);
}

absl::Status Instance::Configure(absl::Time deadline) {
  agent::v1::Call call;
  agent::v1::ConfigureInstance& configure = *call.mutable_configure_instance();
  configure.set_instance_id(id_);
  configure.set_hostname(Hostname());
  ASSIGN_OR_RETURN(*configure.mutable_entropy(), RandomBytes(kEntropyBytes));
  const auto mount = [&](agent::v1::Mount::Role role, const char* serial) {
    agent::v1::Mount* const added = configure.add_mounts();
    added->set_role(role);
    added->set_disk_serial(serial);
    added->set_filesystem(kDiskFilesystem);
  };
  mount(agent::v1::Mount::ROLE_RUNTIME, kRuntimeSerial);
  mount(agent::v1::Mount::ROLE_CODE, kCodeSerial);
  configure.mutable_limits()->set_process_count(context_->config->process_count);
  configure.mutable_limits()->set_open_files(context_->config->open_files);
  for (const auto& [key, value] : Environment()) {
    (*configure.mutable_environment())[key] = value;
  }
  configure.set_wall_clock_unix_ns(absl::ToUnixNanos(absl::Now()));
  return session()->Call(std::move(call), deadline).status();
}

absl::Status Instance::Initialise(const Cancellation& cancellation) {
  const Cancellation::Registration registration = cancellation.OnCancel([this] { Kill(); });
  absl::Status status = CallStartRuntime();
  if (status.ok() || status.GetPayload(kFunctionErrorPayload).has_value()) return status;
  return Explain(status, "initialising the function", cancellation);
}

absl::Status Instance::CallStartRuntime() {
  agent::v1::Call call;
  agent::v1::StartRuntime& start = *call.mutable_start_runtime();
  const RuntimeDescription& runtime = version_->runtime;
  start.set_interface(runtime.runtime_api ? agent::v1::StartRuntime::INTERFACE_RUNTIME_API
                                          : agent::v1::StartRuntime::INTERFACE_STDIO);
  for (const std::string& argument : runtime.arguments) {
    start.mutable_process()->add_arguments(argument);
  }
  const VersionName name = ParseVersionName(version_->name);
  start.set_handler(runtime.handler);
  start.set_function_name(name.function);
  start.set_function_version(name.number);
  start.set_memory_mib(version_->memory_mib);
  start.set_init_timeout_ms(absl::ToInt64Milliseconds(version_->init_timeout));
  start.set_max_response_bytes(context_->config->max_response_bytes);
  // Told so, a runtime written for SnapStart asks for restore/next, and its hooks run.
  start.set_snapshot(to_be_saved_);

  const absl::StatusOr<agent::v1::Reply> reply = session()->Call(
      std::move(call), SteadyNow() + version_->init_timeout + context_->config->timeout_grace);
  if (reply.status().code() == absl::StatusCode::kDeadlineExceeded) {
    hearth::v1::FunctionError error;
    error.set_type("Sandbox.TimedOut");
    error.set_message(absl::StrCat("the initialisation did not end within ",
                                   absl::FormatDuration(version_->init_timeout)));
    return FunctionFailed(kInitFailed, error);
  }
  RETURN_IF_ERROR(reply.status());
  if (!reply->has_runtime_started()) {
    return absl::InternalError("the agent answered StartRuntime without a result");
  }
  if (reply->runtime_started().has_error()) {
    return FunctionFailed(kInitFailed, SanitizeError(reply->runtime_started().error()));
  }
  return absl::OkStatus();
}

absl::Status Instance::Explain(const absl::Status& status, absl::string_view step,
                               const Cancellation& cancellation) {
  if (cancellation.cancelled()) return absl::CancelledError("cancelled");
  std::string detail = absl::StrCat(step, ": ", status.message());
  // A connection that ended by itself has its cause in the machine.
  if (machine() != nullptr && status.code() == absl::StatusCode::kUnavailable) {
    const std::optional<MachineExit> exit = AwaitExit(SteadyNow() + kExitFollows);
    if (exit.has_value() && !absl::StrContains(detail, exit->detail)) {
      absl::StrAppend(&detail, "; the machine ended: ", exit->detail);
    }
  }
  std::shared_ptr<ConsoleTail> console;
  {
    absl::MutexLock lock(&mutex_);
    console = console_;
  }
  const std::string words = console ? console->Text() : "";
  if (!words.empty()) absl::StrAppend(&detail, "; the guest's last words: ", words);
  return absl::UnavailableError(detail);
}

}  // namespace hearth::control
