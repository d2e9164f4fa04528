// SPDX-License-Identifier: Apache-2.0
// The life of an instance; its boot is in instance_boot.cc.
#include "control-plane/node/instance.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/node/names.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

// What an orderly end may take: the agent has little to do, and the disks are read-only.
constexpr absl::Duration kOrderlyEnd = absl::Seconds(1);

}  // namespace

Instance::Instance(const InstanceContext* context, VersionPtr version, std::string id)
    : PoolMember(absl::StrCat(FunctionNameOf(version->name), "/instances/", id), version->name,
                 version->memory_mib),
      context_(context),
      version_(std::move(version)),
      id_(std::move(id)),
      logs_(context->logs, version_->name, name()) {
  absl::MutexLock lock(&mutex_);
  images_ = ImagesOf(*context_->config, *version_);
}

std::shared_ptr<const ResidentSnapshot> Instance::snapshot() const {
  absl::MutexLock lock(&mutex_);
  return snapshot_;
}

hearth::snapshot::v1::Images Instance::images() const {
  absl::MutexLock lock(&mutex_);
  return images_;
}

Machine* Instance::machine() const {
  absl::MutexLock lock(&mutex_);
  return machine_.get();
}

std::shared_ptr<AgentSession> Instance::session() const {
  absl::MutexLock lock(&mutex_);
  return session_;
}

std::string Instance::boot_id() const {
  std::shared_ptr<AgentSession> agent;
  {
    absl::MutexLock lock(&mutex_);
    if (!boot_id_.empty()) return boot_id_;
    // Until then, what a restored one's agent says is its template's.
    if (snapshot_ != nullptr) return "";
    agent = session_;
  }
  return agent ? agent->boot_id() : "";
}

MachineOrigin Instance::origin() const {
  Machine* const made = machine();
  return made == nullptr ? MachineOrigin() : made->origin();
}

absl::Duration Instance::CpuTime() {
  Machine* const running = machine();
  if (running == nullptr) return absl::ZeroDuration();
  absl::StatusOr<absl::Duration> cpu = running->CpuTime();
  // What a machine that has just ended took is told with its end.
  if (!cpu.ok() && AwaitExit(SteadyNow() + kExitFollows)) cpu = running->CpuTime();
  return cpu.ok() ? *cpu : absl::ZeroDuration();
}

absl::Status Instance::Wake() {
  absl::MutexLock lock(&power_mutex_);
  if (!paused_) return absl::OkStatus();
  RETURN_IF_ERROR(machine()->Resume());
  paused_ = false;
  stood_still_ = true;
  return absl::OkStatus();
}

bool Instance::TakeStoodStill() {
  absl::MutexLock lock(&power_mutex_);
  return std::exchange(stood_still_, false);
}

void Instance::Pause() {
  absl::Status paused;
  {
    absl::MutexLock lock(&power_mutex_);
    if (context_->pool->StateOf(shared_from_this()) != InstanceState::kPaused) return;
    paused = machine()->Pause();
    paused_ = paused.ok();
  }
  if (!paused.ok()) BecomeUnusable();
}

void Instance::BecomeUnusable() {
  usable_.store(false, std::memory_order_release);
  context_->pool->Lost(shared_from_this());
}

void Instance::Kill() {
  Machine* running;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    running = machine_.get();
  }
  usable_.store(false, std::memory_order_release);
  if (running != nullptr) running->Kill();
}

void Instance::OnMachineExit(const MachineExit& exit) {
  std::shared_ptr<AgentSession> agent;
  {
    absl::MutexLock lock(&mutex_);
    exit_ = exit;
    agent = session_;
    changed_.SignalAll();
  }
  if (agent) {
    agent->CloseAfterReading(
        absl::UnavailableError(absl::StrCat("the machine ended: ", exit.detail)));
  }
  BecomeUnusable();
  absl::MutexLock lock(&mutex_);
  exit_expected_ = false;
  changed_.SignalAll();
}

void Instance::Terminate(bool orderly) {
  Machine* running;
  std::shared_ptr<AgentSession> agent;
  std::shared_ptr<ConsoleTail> console;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    while (making_) changed_.Wait(&mutex_);
    running = machine_.get();
    agent = session_;
    console = console_;
  }
  bool asked = false;
  if (orderly && agent && agent->usable()) {
    absl::MutexLock lock(&power_mutex_);
    if (!paused_) {
      agent::v1::Call call;
      call.mutable_shutdown();
      // The machine may be gone before the reply is.
      agent->Call(std::move(call), SteadyNow() + kOrderlyEnd).IgnoreError();
      asked = true;
    }
  }
  if (running != nullptr) {
    // Ends by force whatever has not ended by then, so its answer changes nothing.
    running->Stop(asked ? SteadyNow() + kOrderlyEnd : absl::InfinitePast()).IgnoreError();
  }
  if (agent) agent->Close(absl::UnavailableError("the instance was ended"));
  if (console) console->Close();
  absl::MutexLock lock(&mutex_);
  while (exit_expected_) changed_.Wait(&mutex_);
  lease_.reset();
}

void Instance::KeepWhileAlive(std::shared_ptr<void> lease) {
  absl::MutexLock lock(&mutex_);
  lease_ = std::move(lease);
}

std::optional<MachineExit> Instance::AwaitExit(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  while (!exit_.has_value() && !changed_.WaitWithDeadline(&mutex_, deadline)) {
  }
  return exit_;
}

}  // namespace hearth::control
