// SPDX-License-Identifier: Apache-2.0
#include "agent/snapshot.h"

#include <sys/epoll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/identity.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::Call;
using agent::v1::FunctionError;
using agent::v1::Reply;

absl::Status CheckRestore(const agent::v1::RestoreInstance& restore) {
  if (restore.entropy().size() < kMinRestoreEntropyBytes ||
      restore.entropy().size() > kMaxEntropyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("entropy of ", restore.entropy().size(),
                                                   " bytes; ", kMinRestoreEntropyBytes, " to ",
                                                   kMaxEntropyBytes, " are wanted"));
  }
  if (restore.hostname().size() > kMaxHostnameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a host name of ", restore.hostname().size(), " bytes"));
  }
  for (const auto& [name, value] : restore.environment()) {
    // environ(7); a runtime gets each as NAME=value and a NUL.
    if (name.empty() || name.find('=') != std::string::npos ||
        name.find('\0') != std::string::npos || value.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError("a variable that cannot be in an environment");
    }
  }
  return absl::OkStatus();
}

SnapshotService::~SnapshotService() { StopWaiting(); }

bool SnapshotService::Advance(ParkEvent event) {
  const std::optional<ParkState> next = NextParkState(state_, event);
  if (!next.has_value()) return false;
  state_ = *next;
  return true;
}

absl::Status SnapshotService::Allows(Call::CommandCase command) const {
  if (command == Call::kShutdown) return absl::OkStatus();
  const bool restore = command == Call::kRestoreInstance;
  if (state_ == (restore ? ParkState::kParked : ParkState::kServing)) return absl::OkStatus();
  if (restore) return absl::FailedPreconditionError("the instance is not parked");
  return absl::FailedPreconditionError(
      absl::StrCat("the instance is ", ParkStateName(state_), ", around a snapshot"));
}

absl::Status SnapshotService::CanPrepare(const ApiRuntime* api, const StdioRuntime* stdio) const {
  if (api == nullptr && stdio == nullptr) {
    return absl::FailedPreconditionError("StartRuntime has to come first");
  }
  if (api != nullptr ? !api->idle() : !stdio->idle()) {
    return absl::FailedPreconditionError("the runtime does not run, or has an invocation");
  }
  if (context_->supervisor->running() != (api != nullptr ? 1 : 0)) {
    return absl::FailedPreconditionError("a process that StartProcess started still runs");
  }
  // This call itself is one.
  if (context_->mux->calls_in_flight() != 1 || context_->mux->live_streams() != 0) {
    return absl::FailedPreconditionError("other calls or streams are still under way");
  }
  return absl::OkStatus();
}

void SnapshotService::StartTimer(int64_t timeout_ms, const char* type, const char* what) {
  if (timeout_ms <= 0) timeout_ms = kDefaultHookTimeoutMs;
  timer_ = context_->loop->After(
      timeout_ms * 1'000'000,
      [this, type, message = absl::StrCat(what, " did not end within ", timeout_ms, " ms")] {
        timer_ = 0;
        TimedOut(type, message);
      });
}

void SnapshotService::TimedOut(const char* type, const std::string& message) {
  const FunctionError error = MakeFunctionError(type, message);
  if (state_ != ParkState::kFreezing) return api_->FailHooks(error);
  api_->Kill();
  FailPrepare(error);
}

void SnapshotService::StopWaiting() {
  context_->loop->Cancel(std::exchange(timer_, 0));
  if (std::exchange(watching_, false)) context_->loop->Remove(cgroup_->events_fd());
}

void SnapshotService::Prepare(uint64_t call_id, const agent::v1::PrepareSnapshot& prepare,
                              ApiRuntime* api, const StdioRuntime* stdio) {
  if (const absl::Status status = CanPrepare(api, stdio); !status.ok()) {
    return context_->ReplyError(call_id, status);
  }
  Advance(ParkEvent::kPrepare);
  call_id_ = call_id;
  api_ = api;
  prepared_.Clear();
  begin_ns_ = EventLoop::NowNs();
  if (api_ == nullptr) {
    // Between invocations nothing of it runs.
    Advance(ParkEvent::kHooksDone);
    Advance(ParkEvent::kFrozen);
    return;
  }
  StartTimer(prepare.hook_timeout_ms(), "Runtime.BeforeSnapshotTimeout",
             "the preparation of the snapshot");
  api_->RunBeforeHooks([this](const FunctionError* error) { BeforeHooksDone(error); });
}

void SnapshotService::BeforeHooksDone(const FunctionError* error) {
  prepared_.set_hooks_ns(EventLoop::NowNs() - begin_ns_);
  if (error != nullptr) return FailPrepare(*error);
  Advance(ParkEvent::kHooksDone);
  absl::Status status = cgroup_->Freeze();
  if (status.ok()) {
    status =
        context_->loop->Add(cgroup_->events_fd(), EPOLLPRI, [this](uint32_t) { CheckFrozen(); });
  }
  if (!status.ok()) {
    return FailPrepare(MakeFunctionError("Runtime.FreezeFailed", status.message()));
  }
  watching_ = true;
  CheckFrozen();
}

void SnapshotService::CheckFrozen() {
  if (!cgroup_->frozen()) return;
  StopWaiting();
  Advance(ParkEvent::kFrozen);
  api_->FlushLogs();
}

void SnapshotService::LogsFlushed() {
  if (state_ != ParkState::kFlushing) return;
  if (api_ != nullptr && !api_->alive()) {
    return FailPrepare(MakeFunctionError("Runtime.ExitError", "the runtime ended after its hooks"));
  }
  Advance(ParkEvent::kFlushed);
  Reply reply;
  reply.set_id(call_id_);
  if (api_ != nullptr) *prepared_.mutable_usage() = api_->Usage();
  *reply.mutable_snapshot_prepared() = prepared_;
  context_->Reply(reply);
}

void SnapshotService::FailPrepare(const FunctionError& error) {
  StopWaiting();
  cgroup_->Thaw().IgnoreError();
  Advance(ParkEvent::kFailed);
  Reply reply;
  reply.set_id(call_id_);
  *prepared_.mutable_error() = error;
  *reply.mutable_snapshot_prepared() = prepared_;
  context_->Reply(reply);
}

void SnapshotService::Restore(uint64_t call_id, const agent::v1::RestoreInstance& restore) {
  begin_ns_ = EventLoop::NowNs();
  if (const absl::Status status = CheckRestore(restore); !status.ok()) {
    return context_->ReplyError(call_id, status);
  }
  absl::StatusOr<std::string> boot_id = machine_->Restore(restore);
  if (!boot_id.ok()) return context_->ReplyError(call_id, boot_id.status());
  std::string environment;
  for (const auto& [name, value] : restore.environment()) {
    context_->instance->environment[name] = value;
    absl::StrAppend(&environment, name, "=", value);
    environment.push_back('\0');
  }
  Advance(ParkEvent::kRestore);
  call_id_ = call_id;
  restored_.Clear();
  restored_.set_boot_id(*boot_id);
  context_->instance->boot_id = *std::move(boot_id);
  const int64_t now = EventLoop::NowNs();
  restored_.set_identity_ns(now - begin_ns_);
  begin_ns_ = now;
  if (api_ == nullptr) return AfterHooksDone(nullptr);
  if (const absl::Status status = cgroup_->Thaw(); !status.ok()) {
    const FunctionError error = MakeFunctionError("Runtime.ThawFailed", status.message());
    return AfterHooksDone(&error);
  }
  StartTimer(restore.hook_timeout_ms(), "Runtime.RestoreHookUserTimeout",
             "the after-restore hooks");
  api_->RunAfterHooks(std::move(environment),
                      [this](const FunctionError* error) { AfterHooksDone(error); });
}

void SnapshotService::AfterHooksDone(const FunctionError* error) {
  StopWaiting();
  restored_.set_hooks_ns(EventLoop::NowNs() - begin_ns_);
  if (error != nullptr) *restored_.mutable_error() = *error;
  Advance(error == nullptr ? ParkEvent::kHooksDone : ParkEvent::kFailed);
  Reply reply;
  reply.set_id(call_id_);
  *reply.mutable_instance_restored() = restored_;
  context_->Reply(reply);
}

}  // namespace hearth::agent
