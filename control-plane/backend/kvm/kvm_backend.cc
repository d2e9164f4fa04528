// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/kvm_backend.h"

#include <algorithm>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/backend/kvm/kvm_machine.h"
#include "control-plane/backend/kvm/launcher_client.h"
#include "control-plane/backend/kvm/vmm_process.h"
#include "control-plane/backend/kvm/waiting_vmms.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

constexpr absl::Duration kFirstBackOff = absl::Milliseconds(50);
constexpr absl::Duration kLongestBackOff = absl::Seconds(5);

}  // namespace

class KvmBackend::Impl {
 public:
  Impl(KvmBackendConfig config, std::unique_ptr<EventLoop> loop)
      : config_(std::move(config)),
        loop_(std::move(loop)),
        thread_([this] { loop_->Run().IgnoreError(); }) {
    waiting_.emplace([this] { return SpawnWaiting(); }, config_.answer_timeout);
  }
  ~Impl() {
    waiting_.reset();
    std::shared_ptr<LauncherClient> launcher;
    {
      absl::MutexLock lock(&mutex_);
      launcher = std::move(launcher_);
    }
    if (launcher) launcher->Close(absl::CancelledError("hearthd is ending"));
    launcher.reset();
    loop_->Post([this] { loop_->Stop(); });
    thread_.join();
  }

  absl::StatusOr<std::unique_ptr<Machine>> Create(MachineSpec spec) {
    // Saved, the machine's memory is there twice, both charged to its VMM.
    const uint32_t accounted_mib = spec.to_be_saved ? spec.memory_mib * 2 : spec.memory_mib;
    const uint32_t memory_mib = spec.memory_mib;
    const std::string id = spec.id;
    ASSIGN_OR_RETURN(VmmProcess::Order order, CreateOrder(std::move(spec)));
    return Make(id, memory_mib, accounted_mib, std::move(order));
  }

  absl::StatusOr<std::unique_ptr<Machine>> Restore(RestoreSpec spec) {
    const uint32_t memory_mib = spec.memory_mib;
    const std::string id = spec.id;
    ASSIGN_OR_RETURN(VmmProcess::Order order, RestoreOrder(std::move(spec)));
    return Make(id, memory_mib, memory_mib, std::move(order));
  }

  absl::StatusOr<std::vector<std::string>> ListAlive() ABSL_LOCKS_EXCLUDED(mutex_) {
    ASSIGN_OR_RETURN(const std::shared_ptr<LauncherClient> launcher, Launcher());
    ASSIGN_OR_RETURN(const std::set<uint64_t> running,
                     launcher->List(SteadyNow() + config_.answer_timeout));
    std::vector<std::string> alive;
    absl::MutexLock lock(&mutex_);
    for (const Made& made : made_) {
      const std::shared_ptr<VmmProcess> process = made.process.lock();
      if (process && process->IsAmong(launcher.get(), running)) alive.push_back(made.id);
    }
    return alive;
  }

  absl::StatusOr<std::string> VmmVersion() {
    ASSIGN_OR_RETURN(const std::shared_ptr<VmmProcess> process, SpawnWaiting());
    const std::string version = VersionOf(*process);
    process->EndByForce(config_.answer_timeout);
    return version;
  }

  void SetWaiting(size_t count) { waiting_->SetTarget(count); }
  size_t waiting() const { return waiting_->count(); }
  BackendCapabilities capabilities() const ABSL_LOCKS_EXCLUDED(mutex_) {
    BackendCapabilities capabilities = config_.capabilities;
    absl::MutexLock lock(&mutex_);
    capabilities.vsock = capabilities.vsock || (launcher_ && launcher_->vsock());
    return capabilities;
  }

 private:
  // The machine that a process runs; the launcher knows it by the process only.
  struct Made {
    std::string id;
    std::weak_ptr<VmmProcess> process;
  };

  // A program says "hearth-vmm 0.4.0". What one backend saved is not for another.
  std::string VersionOf(const VmmProcess& process) const {
    const std::string build = process.build();
    const std::string version = build.substr(build.rfind(' ') + 1);
    const std::string& name = config_.capabilities.name;
    return version.empty() || name == "kvm" ? version : absl::StrCat(name, " ", version);
  }

  // Forgets those whose machines were destroyed.
  void Remember(const std::string& id, const std::shared_ptr<VmmProcess>& process)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    made_.erase(std::remove_if(made_.begin(), made_.end(),
                               [](const Made& made) { return made.process.expired(); }),
                made_.end());
    made_.push_back({id, process});
  }

  absl::StatusOr<std::unique_ptr<Machine>> Make(const std::string& id, uint32_t memory_mib,
                                                uint32_t accounted_mib, VmmProcess::Order order) {
    const absl::Time begin = SteadyNow();
    const absl::Time deadline = begin + config_.answer_timeout;
    order.tells_process = !config_.capabilities.own_process;
    if (std::shared_ptr<VmmProcess> process = waiting_->Take()) {
      auto machine = std::make_unique<KvmMachine>(process, memory_mib, config_.answer_timeout);
      machine->set_origin(
          {.waited = true, .ready = SteadyNow() - begin, .vmm_version = VersionOf(*process)});
      RETURN_IF_ERROR(process->Employ(accounted_mib, std::move(order), deadline).status());
      Remember(id, process);
      return machine;
    }
    ASSIGN_OR_RETURN(std::shared_ptr<LauncherClient> launcher, Launcher());
    ASSIGN_OR_RETURN(std::shared_ptr<VmmProcess> process,
                     VmmProcess::Spawn(loop_.get(), std::move(launcher), Greeting(), accounted_mib,
                                       std::move(order), deadline));
    auto machine = std::make_unique<KvmMachine>(process, memory_mib, config_.answer_timeout);
    RETURN_IF_ERROR(process->AwaitFirst(deadline));
    machine->set_origin({.waited = false,
                         .ready = process->greeted_at() - begin,
                         .vmm_version = VersionOf(*process)});
    Remember(id, process);
    return machine;
  }

  VmmProcess::Greeting Greeting() const { return {config_.build, config_.vmm_versions}; }

  absl::StatusOr<std::shared_ptr<VmmProcess>> SpawnWaiting() {
    ASSIGN_OR_RETURN(std::shared_ptr<LauncherClient> launcher, Launcher());
    return VmmProcess::SpawnWaiting(loop_.get(), std::move(launcher), Greeting(),
                                    SteadyNow() + config_.answer_timeout);
  }

  absl::StatusOr<std::shared_ptr<LauncherClient>> Launcher() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (launcher_ && launcher_->status().ok()) return launcher_;
    if (SteadyNow() < retry_at_) return last_error_;
    auto connected = LauncherClient::Connect(loop_.get(), config_.launcher_socket, config_.build,
                                             config_.answer_timeout);
    if (!connected.ok()) {
      last_error_ = connected.status();
      retry_at_ = SteadyNow() + back_off_;
      back_off_ = std::min(back_off_ * 2, kLongestBackOff);
      return last_error_;
    }
    back_off_ = kFirstBackOff;
    return launcher_ = *std::move(connected);
  }

  const KvmBackendConfig config_;
  const std::unique_ptr<EventLoop> loop_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<LauncherClient> launcher_ ABSL_GUARDED_BY(mutex_);
  std::vector<Made> made_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_error_ ABSL_GUARDED_BY(mutex_);
  absl::Time retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration back_off_ ABSL_GUARDED_BY(mutex_) = kFirstBackOff;
  std::thread thread_;
  std::optional<WaitingVmms> waiting_;
};

KvmBackend::KvmBackend(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvmBackend::~KvmBackend() = default;

absl::StatusOr<std::unique_ptr<KvmBackend>> KvmBackend::Create(KvmBackendConfig config) {
  ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  return std::unique_ptr<KvmBackend>(
      new KvmBackend(std::make_unique<Impl>(std::move(config), std::move(loop))));
}

absl::StatusOr<std::unique_ptr<Machine>> KvmBackend::Create(MachineSpec spec) {
  return impl_->Create(std::move(spec));
}

absl::StatusOr<std::unique_ptr<Machine>> KvmBackend::Restore(RestoreSpec spec) {
  return impl_->Restore(std::move(spec));
}

absl::StatusOr<std::vector<std::string>> KvmBackend::ListAlive() { return impl_->ListAlive(); }

absl::StatusOr<std::string> KvmBackend::VmmVersion() { return impl_->VmmVersion(); }

void KvmBackend::SetWaiting(size_t count) { impl_->SetWaiting(count); }
size_t KvmBackend::waiting() const { return impl_->waiting(); }

BackendCapabilities KvmBackend::capabilities() const { return impl_->capabilities(); }

BackendCapabilities LibvirtCapabilities() {
  return {.name = "libvirt", .survives_save = false, .vsock = false, .own_process = false};
}

}  // namespace hearth::control
