// SPDX-License-Identifier: Apache-2.0
// Restored machines of ours.
#include <fcntl.h>
#include <unistd.h>

#include "bench/clock.h"
#include "bench/console.h"
#include "bench/restored_machines.h"
#include "vmm/testing/snapshot_calls.h"

namespace hearth::bench {
namespace {

namespace v1 = hearth::vmm::v1;
using vmm::testing::PreparedRequest;
using vmm::testing::VmmProcess;

class Restored : public BootedMachine {
 public:
  Restored(VmmProcess process, UniqueFd console)
      : process(std::move(process)), console(std::move(console)) {}
  pid_t pid() const override { return process.pid(); }
  VmmProcess process;
  UniqueFd console;
};

absl::StatusOr<PreparedRequest> CreateRequest(const RestoreOptions& options, UniqueFd console) {
  PreparedRequest request;
  v1::CreateMachine& create = *request.request.mutable_create();
  create.set_memory_mib(static_cast<uint32_t>(options.machine.memory_mib));
  create.set_vcpu_count(1);
  create.set_command_line(kTickingCommandLine);
  create.set_entropy(true);
  create.mutable_vsock()->set_guest_cid(kGuestCid);
  UniqueFd kernel(open(options.kernel.c_str(), O_RDONLY | O_CLOEXEC));
  if (!kernel) return ErrnoStatus(options.kernel);
  UniqueFd initrd(open(options.initrd.c_str(), O_RDONLY | O_CLOEXEC));
  if (!initrd) return ErrnoStatus(options.initrd);
  create.set_kernel_fd(request.Add(std::move(kernel)));
  create.set_has_initrd(true);
  create.set_initrd_fd(request.Add(std::move(initrd)));
  create.mutable_console()->set_fd(request.Add(std::move(console)));
  return request;
}

class HearthSnapshot : public SavedGuest {
 public:
  HearthSnapshot(const RestoreOptions& options, vmm::testing::SavedMachineFiles files)
      : vmm_(options.machine.vmm), files_(std::move(files)) {}

  absl::StatusOr<std::unique_ptr<BootedMachine>> Restore(bool waiting) override {
    ASSIGN_OR_RETURN(auto machine, Run(waiting));
    v1::Request get;
    get.mutable_get_statistics();
    ASSIGN_OR_RETURN(const v1::Response response, machine->process.Call(std::move(get)));
    machine->sample["exits"] = static_cast<double>(response.statistics().exits());
    machine->sample["faults"] = static_cast<double>(response.statistics().minor_faults());
    return machine;
  }
  absl::Status RecordWorkingSet() {
    ASSIGN_OR_RETURN(const auto machine, Run(/*waiting=*/false));
    ASSIGN_OR_RETURN(working_set_, vmm::testing::FetchWorkingSet(machine->process));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::unique_ptr<Restored>> Run(bool waiting) {
    ASSIGN_OR_RETURN(ConsolePipe console, MakeConsolePipe());
    uint64_t start_ns = NowNs();
    if (!waiting) BeginProfile();
    const auto elapsed_ms = [&] { return static_cast<double>(NowNs() - start_ns) / 1e6; };
    ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(vmm_));
    const double hello_ms = elapsed_ms();
    if (waiting) {
      start_ns = NowNs();
      BeginProfile();
    }
    PreparedRequest restore = vmm::testing::MakeRestoreRequest(files_);
    v1::RestoreMachine& body = *restore.request.mutable_restore();
    body.mutable_console()->set_fd(restore.Add(std::move(console.writer)));
    body.mutable_vsock()->set_guest_cid(kGuestCid);
    *body.mutable_working_set() = working_set_;
    body.set_resume(true);
    RETURN_IF_ERROR(process.Call(std::move(restore.request), std::move(restore.fds)).status());
    const double restored_ms = elapsed_ms();
    RETURN_IF_ERROR(AwaitText(console.reader.get(), "", "the restored guest"));
    EndProfile();
    const double first_byte_ms = elapsed_ms();
    auto machine = std::make_unique<Restored>(std::move(process), std::move(console.reader));
    if (!waiting) machine->sample["hello_ms"] = hello_ms;
    machine->sample["restored_ms"] = restored_ms;
    machine->sample["first_byte_ms"] = first_byte_ms;
    return machine;
  }

  const std::string vmm_;
  const vmm::testing::SavedMachineFiles files_;
  v1::WorkingSet working_set_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SavedGuest>> SaveHearth(const RestoreOptions& options) {
  ASSIGN_OR_RETURN(ConsolePipe console, MakeConsolePipe());
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(options.machine.vmm));
  ASSIGN_OR_RETURN(PreparedRequest create, CreateRequest(options, std::move(console.writer)));
  RETURN_IF_ERROR(process.Call(std::move(create.request), std::move(create.fds)).status());
  v1::Request start;
  start.mutable_start();
  RETURN_IF_ERROR(process.Call(std::move(start)).status());
  RETURN_IF_ERROR(AwaitText(console.reader.get(), kTick, "the guest"));
  v1::Request pause;
  pause.mutable_pause();
  RETURN_IF_ERROR(process.Call(std::move(pause)).status());
  ASSIGN_OR_RETURN(auto files, vmm::testing::SaveMachine(process));
  auto saved = std::make_unique<HearthSnapshot>(options, std::move(files));
  RETURN_IF_ERROR(saved->RecordWorkingSet());
  return saved;
}

}  // namespace hearth::bench
