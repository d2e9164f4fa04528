// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/kvm_backend.h"

#include <fcntl.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/backend/kvm/launcher_client.h"
#include "control-plane/backend/kvm/vmm_process.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

// A vsock device is seen by its own guest only, so all guests may have the same address.
constexpr uint32_t kGuestCid = 3;
constexpr absl::Duration kFirstBackOff = absl::Milliseconds(50);
constexpr absl::Duration kLongestBackOff = absl::Seconds(5);

class KvmMachine final : public Machine {
 public:
  KvmMachine(std::shared_ptr<VmmProcess> process, absl::Duration answer_timeout)
      : process_(std::move(process)), answer_timeout_(answer_timeout) {}
  ~KvmMachine() override { process_->EndByForce(answer_timeout_); }

  absl::Status Start() override {
    vmm::v1::Request request;
    request.mutable_start();
    return Call(std::move(request)).status();
  }
  absl::StatusOr<UniqueFd> AcceptAgent(absl::Time deadline) override {
    return process_->AcceptAgent(deadline);
  }
  absl::Status Pause() override {
    vmm::v1::Request request;
    request.mutable_pause();
    return Call(std::move(request)).status();
  }
  absl::Status Resume() override {
    vmm::v1::Request request;
    request.mutable_resume();
    return Call(std::move(request)).status();
  }
  absl::StatusOr<MachineStatistics> Statistics() override {
    vmm::v1::Request request;
    request.mutable_get_statistics();
    ASSIGN_OR_RETURN(const vmm::v1::Response response, Call(std::move(request)));
    MachineStatistics statistics;
    ASSIGN_OR_RETURN(statistics.cpu, process_->CpuTime());
    statistics.resident_bytes = process_->ResidentBytes();
    statistics.block_read_bytes = response.statistics().block_read_bytes();
    statistics.block_write_bytes = response.statistics().block_write_bytes();
    return statistics;
  }
  absl::StatusOr<absl::Duration> CpuTime() override { return process_->CpuTime(); }
  void Kill() override { process_->Kill(); }

  absl::Status Stop(absl::Time deadline) override {
    const int64_t timeout_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (timeout_ms > 0) {
      vmm::v1::Request request;
      request.mutable_stop()->set_timeout_ms(
          static_cast<uint32_t>(std::min<int64_t>(timeout_ms, UINT32_MAX)));
      // It answers when it has begun to wait, or is gone.
      Call(std::move(request)).status().IgnoreError();
      if (process_->AwaitEnd(deadline)) return absl::OkStatus();
    }
    process_->EndByForce(answer_timeout_);
    return absl::OkStatus();
  }
  void OnExit(std::function<void(const MachineExit&)> callback) override {
    process_->OnExit(std::move(callback));
  }

 private:
  absl::StatusOr<vmm::v1::Response> Call(vmm::v1::Request request) {
    return process_->Call(std::move(request), absl::Now() + answer_timeout_);
  }

  const std::shared_ptr<VmmProcess> process_;
  const absl::Duration answer_timeout_;
};

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("opening ", path));
  return fd;
}

absl::Status MakeRequest(MachineSpec& spec, vmm::v1::Request* request, std::vector<UniqueFd>* fds) {
  const auto add = [fds](UniqueFd fd) {
    fds->push_back(std::move(fd));
    return static_cast<uint32_t>(fds->size() - 1);
  };
  vmm::v1::CreateMachine& create = *request->mutable_create();
  create.set_memory_mib(spec.memory_mib);
  create.set_vcpu_count(1);
  ASSIGN_OR_RETURN(UniqueFd kernel, OpenFile(spec.kernel_path, O_RDONLY));
  create.set_kernel_fd(add(std::move(kernel)));
  create.set_command_line(spec.command_line);
  for (const MachineDisk& disk : spec.disks) {
    ASSIGN_OR_RETURN(UniqueFd file, OpenFile(disk.path, disk.read_only ? O_RDONLY : O_RDWR));
    vmm::v1::Disk* const added = create.add_disks();
    added->set_fd(add(std::move(file)));
    added->set_read_only(disk.read_only);
    added->set_serial(disk.serial);
  }
  create.mutable_vsock()->set_guest_cid(kGuestCid);
  create.mutable_vsock()->add_guest_ports(wire::kAgentHostPort);
  create.set_entropy(true);
  if (spec.console) create.mutable_console()->set_fd(add(std::move(spec.console)));
  return absl::OkStatus();
}

}  // namespace

class KvmBackend::Impl {
 public:
  Impl(KvmBackendConfig config, std::unique_ptr<EventLoop> loop)
      : config_(std::move(config)),
        loop_(std::move(loop)),
        thread_([this] { loop_->Run().IgnoreError(); }) {}
  ~Impl() {
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
    const absl::Time deadline = absl::Now() + config_.answer_timeout;
    vmm::v1::Request request;
    std::vector<UniqueFd> fds;
    RETURN_IF_ERROR(MakeRequest(spec, &request, &fds));
    ASSIGN_OR_RETURN(std::shared_ptr<LauncherClient> launcher, Launcher());
    ASSIGN_OR_RETURN(
        std::shared_ptr<VmmProcess> process,
        VmmProcess::Spawn(loop_.get(), std::move(launcher), config_.build, spec.memory_mib,
                          std::move(request), std::move(fds), deadline));
    auto machine = std::make_unique<KvmMachine>(process, config_.answer_timeout);
    RETURN_IF_ERROR(process->AwaitFirst(deadline));
    return machine;
  }

 private:
  absl::StatusOr<std::shared_ptr<LauncherClient>> Launcher() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (launcher_ && launcher_->status().ok()) return launcher_;
    if (absl::Now() < retry_at_) return last_error_;
    auto connected = LauncherClient::Connect(loop_.get(), config_.launcher_socket, config_.build,
                                             config_.answer_timeout);
    if (!connected.ok()) {
      last_error_ = connected.status();
      retry_at_ = absl::Now() + back_off_;
      back_off_ = std::min(back_off_ * 2, kLongestBackOff);
      return last_error_;
    }
    back_off_ = kFirstBackOff;
    return launcher_ = *std::move(connected);
  }

  const KvmBackendConfig config_;
  const std::unique_ptr<EventLoop> loop_;
  absl::Mutex mutex_;
  std::shared_ptr<LauncherClient> launcher_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_error_ ABSL_GUARDED_BY(mutex_);
  absl::Time retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Duration back_off_ ABSL_GUARDED_BY(mutex_) = kFirstBackOff;
  std::thread thread_;
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

BackendCapabilities KvmBackend::capabilities() const {
  BackendCapabilities capabilities;
  capabilities.name = "kvm";
  return capabilities;
}

}  // namespace hearth::control
