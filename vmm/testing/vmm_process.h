// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "wire/fd_socket.h"

namespace hearth::vmm::testing {

// A controller for tests and measurements: spawns a hearth-vmm and speaks hearth.vmm.v1 with it,
// one blocking call after the other. One thread. Ends the process when destroyed.
class VmmProcess {
 public:
  struct Event {
    v1::Event event;
    std::vector<UniqueFd> fds;
  };

  // Starts the program with a control socket and /dev/kvm; exchanges Hello. `log` becomes its
  // standard error; -1: ours.
  static absl::StatusOr<VmmProcess> Spawn(const std::string& program, int log = -1);
  VmmProcess(VmmProcess&& other) noexcept;
  VmmProcess& operator=(VmmProcess&&) = delete;
  ~VmmProcess();

  // Sends a request (its id is set here) and returns its response, or the error that it carries.
  // Events that arrive meanwhile are kept for NextEvent().
  absl::StatusOr<v1::Response> Call(v1::Request request, std::vector<UniqueFd> fds = {});
  absl::StatusOr<Event> NextEvent(int timeout_ms);
  // Ignores other events.
  absl::StatusOr<v1::Exited> AwaitExited(int timeout_ms);

  // Closes our end of the control socket.
  void CloseControl() { socket_.reset(); }
  wire::FdSocket& socket() { return *socket_; }
  pid_t pid() const { return pid_; }
  // Waits for the end of the process; its wait status.
  absl::StatusOr<int> Wait(int timeout_ms);

 private:
  VmmProcess(pid_t pid, UniqueFd pidfd, UniqueFd socket);
  absl::Status ReceiveOne(int timeout_ms, std::optional<v1::Response>& response);

  pid_t pid_;
  UniqueFd pidfd_;
  std::optional<wire::FdSocket> socket_;
  std::deque<Event> events_;
  uint64_t next_id_ = 1;
};

// A CreateMachine with memory and vcpu_count set, kernel_fd = 0 and console.fd = 1: the descriptors
// to pass are a kernel and a pipe or file.
v1::Request BasicCreateRequest(uint32_t memory_mib);

}  // namespace hearth::vmm::testing
