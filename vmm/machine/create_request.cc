// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/create_request.h"

#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>

#include "vmm/machine/device_set.h"
#include "vmm/machine/limits.h"
#include "vmm/machine/memory_offer.h"
#include "wire/limits.h"

namespace hearth::vmm {
namespace {

absl::Status CheckMemory(uint32_t memory_mib) {
  if (memory_mib < kMinMemoryMib || memory_mib > kMaxMemoryMib ||
      memory_mib % kMemoryGranuleMib != 0) {
    return absl::InvalidArgumentError(absl::StrCat("memory_mib is ", memory_mib,
                                                   "; it must be a multiple of ", kMemoryGranuleMib,
                                                   " from ", kMinMemoryMib, " to ", kMaxMemoryMib));
  }
  struct sysinfo host {};
  if (sysinfo(&host) != 0) return ErrnoStatus("sysinfo");
  const uint64_t host_mib = (uint64_t{host.totalram} * host.mem_unit) >> 20;
  if (memory_mib > host_mib) {
    return absl::InvalidArgumentError(absl::StrCat("memory_mib is ", memory_mib, ", more than the ",
                                                   host_mib, " MiB that this host has"));
  }
  return absl::OkStatus();
}

absl::Status CheckVsock(const v1::Vsock& vsock) {
  // VIRTIO 1.2, 5.10.4: the upper 32 bits are reserved, 0xffffffff means "any".
  if (vsock.guest_cid() < kMinGuestCid || vsock.guest_cid() == UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("vsock.guest_cid is ", vsock.guest_cid(),
                                                   "; it must be from ", kMinGuestCid,
                                                   " to 4294967294"));
  }
  if (static_cast<size_t>(vsock.guest_ports_size()) > kMaxGuestPorts) {
    return absl::InvalidArgumentError(absl::StrCat("vsock.guest_ports has ",
                                                   vsock.guest_ports_size(),
                                                   " ports, the limit is ", kMaxGuestPorts));
  }
  return absl::OkStatus();
}

template <typename Request>
absl::Status CheckDisks(const Request& request) {
  if (static_cast<size_t>(request.disks_size()) > kMaxDisks) {
    return absl::InvalidArgumentError(
        absl::StrCat("disks has ", request.disks_size(), " entries, the limit is ", kMaxDisks));
  }
  for (int i = 0; i < request.disks_size(); ++i) {
    const std::string& serial = request.disks(i).serial();
    if (serial.size() > kMaxDiskSerialBytes || serial.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("disks[", i, "].serial has ", serial.size(),
                                                     " bytes or a NUL, the limit is ",
                                                     kMaxDiskSerialBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

// What CreateMachine and RestoreMachine have in common.
template <typename Request>
absl::Status TakeDevices(const Request& request, FrameFds& fds, MachineConfig& config) {
  RETURN_IF_ERROR(CheckDisks(request));
  if (request.has_vsock()) RETURN_IF_ERROR(CheckVsock(request.vsock()));
  for (int i = 0; i < request.disks_size(); ++i) {
    const v1::Disk& disk = request.disks(i);
    ASSIGN_OR_RETURN(UniqueFd file, fds.Take(disk.fd(), absl::StrCat("disks[", i, "].fd")));
    config.disks.push_back({std::move(file), disk.read_only(), disk.serial()});
  }
  if (request.has_vsock()) {
    config.vsock.emplace();
    config.vsock->guest_cid = request.vsock().guest_cid();
    config.vsock->host_ports.assign(request.vsock().guest_ports().begin(),
                                    request.vsock().guest_ports().end());
  }
  if (request.has_console()) {
    ASSIGN_OR_RETURN(config.console, fds.Take(request.console().fd(), "console.fd"));
    config.console_bytes_per_second = request.console().bytes_per_second();
  }
  return absl::OkStatus();
}

// The whole file, from its start, whatever its position is.
absl::StatusOr<std::string> ReadStateFile(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the state file");
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("the state file is no file");
  if (static_cast<uint64_t>(info.st_size) > wire::kMaxSavedStateBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the state file has ", info.st_size, " bytes, the limit is ", wire::kMaxSavedStateBytes));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  const ssize_t got = pread(fd, bytes.data(), bytes.size(), 0);
  if (got < 0) return ErrnoStatus("reading the state file");
  bytes.resize(static_cast<size_t>(got));
  return bytes;
}

absl::Status TakeWorkingSet(const v1::WorkingSet& set, std::vector<PageRun>& to) {
  if (static_cast<size_t>(set.runs_size()) > wire::kMaxPageRuns) {
    return absl::InvalidArgumentError(absl::StrCat("working_set has ", set.runs_size(),
                                                   " runs, the limit is ", wire::kMaxPageRuns));
  }
  to.reserve(static_cast<size_t>(set.runs_size()));
  for (const v1::PageRun& run : set.runs()) {
    to.push_back({run.first_page(), run.page_count(), run.written()});
  }
  return absl::OkStatus();
}

absl::StatusOr<Pager> TakePager(const v1::Pager& request, FrameFds& fds) {
  Pager pager;
  ASSIGN_OR_RETURN(pager.socket, fds.Take(request.socket_fd(), "pager.socket_fd"));
  ASSIGN_OR_RETURN(pager.device,
                   fds.Take(request.userfaultfd_device_fd(), "pager.userfaultfd_device_fd"));
  pager.offer = OfferMemory;
  return pager;
}

}  // namespace

absl::StatusOr<UniqueFd> FrameFds::Take(uint32_t index, absl::string_view field) {
  if (index >= fds_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " names descriptor ", index, ", but its frame carries ", fds_.size()));
  }
  if (!fds_[index]) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " names descriptor ", index, ", which another field names too"));
  }
  return std::move(fds_[index]);
}

absl::StatusOr<MachineConfig> ParseCreateRequest(const v1::CreateMachine& request, FrameFds& fds) {
  RETURN_IF_ERROR(CheckMemory(request.memory_mib()));
  if (request.vcpu_count() < 1 || request.vcpu_count() > kMaxVcpus) {
    return absl::InvalidArgumentError(
        absl::StrCat("vcpu_count is ", request.vcpu_count(), "; this VMM offers 1 to ", kMaxVcpus));
  }

  MachineConfig config;
  config.memory_mib = request.memory_mib();
  config.vcpu_count = request.vcpu_count();
  config.command_line = request.command_line();
  ASSIGN_OR_RETURN(config.kernel, fds.Take(request.kernel_fd(), "kernel_fd"));
  if (request.has_initrd()) {
    ASSIGN_OR_RETURN(config.initrd, fds.Take(request.initrd_fd(), "initrd_fd"));
  }
  RETURN_IF_ERROR(TakeDevices(request, fds, config));
  config.entropy = request.entropy();
  return config;
}

absl::StatusOr<RestoreConfig> ParseRestoreRequest(const v1::RestoreMachine& request,
                                                  FrameFds& fds) {
  RestoreConfig config;
  ASSIGN_OR_RETURN(const UniqueFd state, fds.Take(request.state_fd(), "state_fd"));
  if (request.has_pager()) {
    ASSIGN_OR_RETURN(config.pager, TakePager(request.pager(), fds));
  } else {
    ASSIGN_OR_RETURN(config.memory, fds.Take(request.memory_fd(), "memory_fd"));
    RETURN_IF_ERROR(TakeWorkingSet(request.working_set(), config.working_set));
  }
  RETURN_IF_ERROR(TakeDevices(request, fds, config.machine));
  ASSIGN_OR_RETURN(const std::string bytes, ReadStateFile(state.get()));
  ASSIGN_OR_RETURN(config.state, ParseMachineState(bytes));
  config.machine.memory_mib = config.state.memory_mib;
  config.machine.vcpu_count = static_cast<uint32_t>(config.state.vcpus.size());
  config.machine.entropy = DeviceSet::HadEntropy(config.state.devices);
  return config;
}

}  // namespace hearth::vmm
