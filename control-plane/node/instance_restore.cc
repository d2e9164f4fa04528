// SPDX-License-Identifier: Apache-2.0
// How an instance becomes a snapshot, and how it is restored from one.
#include <sys/mman.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "control-plane/node/instance.h"
#include "control-plane/node/names.h"
#include "control-plane/node/sanitize.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

constexpr char kBeforeFailed[] = "the function failed before its snapshot";
constexpr char kAfterFailed[] = "the function failed after its restore";

absl::StatusOr<UniqueFd> MemoryFile(const char* name) {
  UniqueFd file(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) return ErrnoStatus("memfd_create");
  return file;
}

// The VMM may have been updated since the host was described.
absl::Status CheckVmm(const std::string& here, const hearth::snapshot::v1::Host& made_on) {
  if (here.empty() || here == made_on.vmm_version()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("VMM version ", here, " here, ", made_on.vmm_version(), " in the snapshot"));
}

// What is the snapshot's fault, or the host's, is told as it is; the rest needs explaining.
bool SpeaksForItself(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) ||
         absl::IsUnimplemented(status) || absl::IsDataLoss(status) ||
         absl::IsResourceExhausted(status);
}

}  // namespace

absl::Status Instance::CallPrepareSnapshot() {
  // The agent itself ends hooks that take too long; that it does not answer is no function's fault.
  const absl::Duration timeout = context_->config->hook_timeout;
  agent::v1::Call call;
  call.mutable_prepare_snapshot()->set_hook_timeout_ms(absl::ToInt64Milliseconds(timeout));
  const absl::StatusOr<agent::v1::Reply> reply =
      session()->Call(std::move(call), SteadyNow() + timeout + context_->config->timeout_grace);
  RETURN_IF_ERROR(reply.status());
  if (!reply->has_snapshot_prepared()) {
    return absl::InternalError("the agent answered PrepareSnapshot without a result");
  }
  if (!reply->snapshot_prepared().has_error()) return absl::OkStatus();
  return FunctionFailed(kBeforeFailed, SanitizeError(reply->snapshot_prepared().error()));
}

absl::StatusOr<SavedMachine> Instance::Save(const Cancellation& cancellation) {
  const Cancellation::Registration registration = cancellation.OnCancel([this] { Kill(); });
  SavedMachine saved;
  ASSIGN_OR_RETURN(saved.state, MemoryFile("hearth-state"));
  ASSIGN_OR_RETURN(saved.memory, MemoryFile("hearth-memory"));
  absl::Status status = CallPrepareSnapshot();
  if (status.ok()) status = machine()->Pause();
  if (status.ok()) status = machine()->Save(saved.state.get(), saved.memory.get());
  if (status.ok()) return saved;
  if (status.GetPayload(kFunctionErrorPayload).has_value()) return status;
  if (absl::IsUnimplemented(status)) return status;
  return Explain(status, "saving an instance", cancellation);
}

absl::Status Instance::Restore(std::shared_ptr<const ResidentSnapshot> snapshot,
                               std::vector<MachineDisk> disks, const Cancellation& cancellation,
                               RestoreTimes* times) {
  const Cancellation::Registration registration = cancellation.OnCancel([this] { Kill(); });
  const absl::Time deadline = SteadyNow() + context_->config->boot_timeout;
  {
    absl::MutexLock lock(&mutex_);
    snapshot_ = snapshot;
    images_ = snapshot->header().images();
  }
  absl::Time begin = SteadyNow();
  const auto lap = [&begin] {
    const absl::Time now = SteadyNow();
    return now - std::exchange(begin, now);
  };
  absl::Status status = MakeMachine([&](UniqueFd console) {
    RestoreSpec spec;
    spec.id = id_;
    spec.memory_mib = snapshot->header().memory_mib();
    spec.state = snapshot->state();
    spec.memory = snapshot->memory();
    if (const auto pages = snapshot->working_set()) spec.working_set = *pages;
    spec.disks = std::move(disks);
    spec.console = std::move(console);
    return context_->config->backend->Restore(std::move(spec));
  });
  if (status.ok()) status = CheckVmm(machine()->origin().vmm_version, snapshot->header().host());
  if (SpeaksForItself(status)) return status;
  times->machine = lap();
  if (status.ok()) status = Connect(deadline);
  times->agent = lap();
  return status.ok() ? status : ExplainRestore(status, cancellation);
}

absl::Status Instance::Unpark(const Cancellation& cancellation, RestoreTimes* times) {
  const Cancellation::Registration registration = cancellation.OnCancel([this] { Kill(); });
  const absl::Time begin = SteadyNow();
  absl::Status status = CallRestore(times);
  times->identity = SteadyNow() - begin;
  if (status.ok() || status.GetPayload(kFunctionErrorPayload).has_value()) return status;
  return ExplainRestore(status, cancellation);
}

absl::Status Instance::ExplainRestore(const absl::Status& status,
                                      const Cancellation& cancellation) {
  const absl::Status explained = Explain(status, "restoring an instance", cancellation);
  // Kept apart, for a busy host makes restores late and is not the snapshot's fault.
  return absl::IsDeadlineExceeded(status) && !absl::IsCancelled(explained)
             ? absl::DeadlineExceededError(explained.message())
             : explained;
}

absl::Status Instance::CallRestore(RestoreTimes* times) {
  const absl::Duration timeout = context_->config->hook_timeout;
  agent::v1::Call call;
  agent::v1::RestoreInstance& restore = *call.mutable_restore_instance();
  restore.set_instance_id(id_);
  restore.set_hostname(Hostname());
  ASSIGN_OR_RETURN(*restore.mutable_entropy(), RandomBytes(kEntropyBytes));
  for (const auto& [key, value] : Environment()) (*restore.mutable_environment())[key] = value;
  restore.set_hook_timeout_ms(absl::ToInt64Milliseconds(timeout));
  // Last, so that it is not old when it is sent.
  restore.set_wall_clock_unix_ns(absl::ToUnixNanos(absl::Now()));
  const absl::StatusOr<agent::v1::Reply> reply =
      session()->Call(std::move(call), SteadyNow() + timeout + context_->config->timeout_grace);
  RETURN_IF_ERROR(reply.status());
  if (!reply->has_instance_restored()) {
    return absl::InternalError("the agent answered RestoreInstance without a result");
  }
  const agent::v1::InstanceRestored& restored = reply->instance_restored();
  if (restored.has_error()) return FunctionFailed(kAfterFailed, SanitizeError(restored.error()));
  // The guest's own figure: for information, and within reason.
  times->hooks = absl::Nanoseconds(std::max<int64_t>(restored.hooks_ns(), 0));
  times->hooks = std::min(times->hooks, timeout);
  absl::MutexLock lock(&mutex_);
  boot_id_ = wire::SanitizeText(restored.boot_id(), wire::kMaxHelloStringBytes);
  return absl::OkStatus();
}

absl::StatusOr<WorkingSet> Instance::GetWorkingSet() {
  Machine* const running = machine();
  if (running == nullptr) return absl::UnavailableError("the machine has ended");
  return running->GetWorkingSet();
}

}  // namespace hearth::control
