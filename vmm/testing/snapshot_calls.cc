// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/snapshot_calls.h"

#include <fcntl.h>
#include <sys/mman.h>

namespace hearth::vmm::testing {

uint32_t PreparedRequest::Add(UniqueFd fd) {
  fds.push_back(std::move(fd));
  return static_cast<uint32_t>(fds.size() - 1);
}

absl::StatusOr<SavedMachineFiles> SaveMachine(VmmProcess& process) {
  SavedMachineFiles files;
  files.state = UniqueFd(memfd_create("hearth-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  files.memory = UniqueFd(memfd_create("hearth-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!files.state || !files.memory) return ErrnoStatus("memfd_create");
  PreparedRequest save;
  save.request.mutable_save()->set_state_fd(save.Add(UniqueFd(dup(files.state.get()))));
  save.request.mutable_save()->set_memory_fd(save.Add(UniqueFd(dup(files.memory.get()))));
  ASSIGN_OR_RETURN(const v1::Response response,
                   process.Call(std::move(save.request), std::move(save.fds)));
  files.sizes = response.saved();
  if (fcntl(files.memory.get(), F_ADD_SEALS,
            F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus("F_ADD_SEALS");
  }
  return files;
}

PreparedRequest MakeRestoreRequest(const SavedMachineFiles& files) {
  PreparedRequest restore;
  v1::RestoreMachine& body = *restore.request.mutable_restore();
  body.set_state_fd(restore.Add(UniqueFd(dup(files.state.get()))));
  body.set_memory_fd(restore.Add(UniqueFd(dup(files.memory.get()))));
  return restore;
}

absl::StatusOr<v1::WorkingSet> FetchWorkingSet(VmmProcess& process) {
  const std::string path = absl::StrCat("/proc/", process.pid(), "/pagemap");
  UniqueFd pagemap(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return ErrnoStatus(path);
  PreparedRequest get;
  get.request.mutable_get_working_set()->set_pagemap_fd(get.Add(std::move(pagemap)));
  ASSIGN_OR_RETURN(const v1::Response response,
                   process.Call(std::move(get.request), std::move(get.fds)));
  return response.working_set();
}

}  // namespace hearth::vmm::testing
