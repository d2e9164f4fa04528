// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/kvm/kvm_machine.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "vmm/base/steady_clock.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

// A vsock device is seen by its own guest only, so all guests may have the same address.
constexpr uint32_t kGuestCid = 3;
// What writing a guest's memory into a file may take beside an ordinary answer.
constexpr uint32_t kSavedMibPerSecond = 64;

uint32_t Add(VmmProcess::Order* order, UniqueFd fd) {
  order->fds.push_back(std::move(fd));
  return static_cast<uint32_t>(order->fds.size() - 1);
}

absl::StatusOr<UniqueFd> Duplicate(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
  return copy;
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("opening ", path));
  return fd;
}

absl::Status AddDevices(VmmProcess::Order* order, const std::vector<MachineDisk>& disks,
                        google::protobuf::RepeatedPtrField<vmm::v1::Disk>* added,
                        vmm::v1::Vsock* vsock) {
  for (const MachineDisk& disk : disks) {
    ASSIGN_OR_RETURN(UniqueFd file, OpenFile(disk.path, disk.read_only ? O_RDONLY : O_RDWR));
    vmm::v1::Disk* const one = added->Add();
    one->set_fd(Add(order, std::move(file)));
    one->set_read_only(disk.read_only);
    one->set_serial(disk.serial);
  }
  vsock->set_guest_cid(kGuestCid);
  vsock->add_guest_ports(wire::kAgentHostPort);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VmmProcess::Order> CreateOrder(MachineSpec spec) {
  VmmProcess::Order order;
  vmm::v1::CreateMachine& create = *order.request.mutable_create();
  create.set_memory_mib(spec.memory_mib);
  create.set_vcpu_count(kVcpus);
  ASSIGN_OR_RETURN(UniqueFd kernel, OpenFile(spec.kernel_path, O_RDONLY));
  create.set_kernel_fd(Add(&order, std::move(kernel)));
  create.set_command_line(spec.command_line);
  RETURN_IF_ERROR(AddDevices(&order, spec.disks, create.mutable_disks(), create.mutable_vsock()));
  create.set_entropy(true);
  create.set_instance_id(spec.id);
  if (spec.console) create.mutable_console()->set_fd(Add(&order, std::move(spec.console)));
  return order;
}

absl::StatusOr<VmmProcess::Order> RestoreOrder(RestoreSpec spec) {
  VmmProcess::Order order;
  vmm::v1::RestoreMachine& restore = *order.request.mutable_restore();
  ASSIGN_OR_RETURN(UniqueFd state, Duplicate(spec.state));
  restore.set_state_fd(Add(&order, std::move(state)));
  ASSIGN_OR_RETURN(UniqueFd memory, Duplicate(spec.memory));
  restore.set_memory_fd(Add(&order, std::move(memory)));
  RETURN_IF_ERROR(AddDevices(&order, spec.disks, restore.mutable_disks(), restore.mutable_vsock()));
  if (spec.console) restore.mutable_console()->set_fd(Add(&order, std::move(spec.console)));
  for (const PageRun& run : spec.working_set) {
    // What is only read is not populated (docs/vmm.md), so there is no use in telling of it.
    if (!run.written) continue;
    vmm::v1::PageRun* const added = restore.mutable_working_set()->add_runs();
    added->set_first_page(run.first_page);
    added->set_page_count(run.page_count);
    added->set_written(run.written);
  }
  restore.set_resume(true);
  return order;
}

absl::StatusOr<vmm::v1::Response> KvmMachine::Call(VmmProcess::Order order) {
  return process_->Call(std::move(order), SteadyNow() + answer_timeout_);
}

absl::Status KvmMachine::Start() {
  VmmProcess::Order order;
  order.request.mutable_start();
  return Call(std::move(order)).status();
}

absl::StatusOr<UniqueFd> KvmMachine::AcceptAgent(absl::Time deadline) {
  return process_->AcceptAgent(deadline);
}

absl::Status KvmMachine::Pause() {
  VmmProcess::Order order;
  order.request.mutable_pause();
  return Call(std::move(order)).status();
}

absl::Status KvmMachine::Resume() {
  VmmProcess::Order order;
  order.request.mutable_resume();
  return Call(std::move(order)).status();
}

absl::Status KvmMachine::Save(int state, int memory) {
  VmmProcess::Order order;
  ASSIGN_OR_RETURN(UniqueFd state_copy, Duplicate(state));
  order.request.mutable_save()->set_state_fd(Add(&order, std::move(state_copy)));
  ASSIGN_OR_RETURN(UniqueFd memory_copy, Duplicate(memory));
  order.request.mutable_save()->set_memory_fd(Add(&order, std::move(memory_copy)));
  const absl::Duration takes = absl::Seconds(memory_mib_ / kSavedMibPerSecond);
  return process_->Call(std::move(order), SteadyNow() + answer_timeout_ + takes).status();
}

absl::StatusOr<WorkingSet> KvmMachine::GetWorkingSet() {
  VmmProcess::Order order;
  ASSIGN_OR_RETURN(UniqueFd pagemap, process_->OpenPagemap(SteadyNow() + answer_timeout_));
  order.request.mutable_get_working_set()->set_pagemap_fd(Add(&order, std::move(pagemap)));
  ASSIGN_OR_RETURN(const vmm::v1::Response response, Call(std::move(order)));
  if (response.working_set().runs_size() > static_cast<int>(wire::kMaxPageRuns)) {
    return absl::InternalError("hearth-vmm told too many runs of pages");
  }
  WorkingSet pages;
  pages.reserve(static_cast<size_t>(response.working_set().runs_size()));
  for (const vmm::v1::PageRun& run : response.working_set().runs()) {
    pages.push_back({run.first_page(), run.page_count(), run.written()});
  }
  return pages;
}

absl::StatusOr<MachineStatistics> KvmMachine::Statistics() {
  VmmProcess::Order order;
  order.request.mutable_get_statistics();
  ASSIGN_OR_RETURN(const vmm::v1::Response response, Call(std::move(order)));
  MachineStatistics statistics;
  ASSIGN_OR_RETURN(statistics.cpu, process_->CpuTime());
  statistics.resident_bytes = process_->ResidentBytes();
  statistics.block_read_bytes = response.statistics().block_read_bytes();
  statistics.block_write_bytes = response.statistics().block_write_bytes();
  return statistics;
}

absl::Status KvmMachine::Stop(absl::Time deadline) {
  const int64_t timeout_ms = absl::ToInt64Milliseconds(deadline - SteadyNow());
  if (timeout_ms > 0) {
    VmmProcess::Order order;
    order.request.mutable_stop()->set_timeout_ms(
        static_cast<uint32_t>(std::min<int64_t>(timeout_ms, UINT32_MAX)));
    // It answers when it has begun to wait, or is gone.
    Call(std::move(order)).status().IgnoreError();
    if (process_->AwaitEnd(deadline)) return absl::OkStatus();
  }
  process_->EndByForce(answer_timeout_);
  return absl::OkStatus();
}

void KvmMachine::OnExit(std::function<void(const MachineExit&)> callback) {
  process_->OnExit(std::move(callback));
}

}  // namespace hearth::control
