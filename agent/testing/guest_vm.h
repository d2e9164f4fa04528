// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>

#include "agent/testing/guest_files.h"
#include "agent/testing/test_host.h"

namespace hearth::agent {

// A real guest for tests: the guest kernel under QEMU's emulation, the agent as its PID 1, the
// images of the image store as disks, a virtio-serial port as the connection.
class GuestVm {
 public:
  // The function's code: name -> text, executable. `runtime` as in the image store's manifest.
  explicit GuestVm(const std::map<std::string, std::string>& code,
                   const std::string& runtime = "python3.11", int memory_mib = 256);
  ~GuestVm();

  // False, with a warning that says what is missing, when there is no QEMU or no image store.
  static bool Possible();

  TestHost& host() { return *host_; }
  // Another host goes on with the same connection.
  void TakeOver() { host_ = host_->Successor(); }
  void Configure(const agent::v1::ResourceLimits& limits = {});
  // Waits until the machine has reset itself, which ends QEMU.
  void WaitForReset();
  std::string Console() const;

 private:
  GuestFiles files_;
  pid_t pid_ = 0;
  std::unique_ptr<TestHost> host_;
};

}  // namespace hearth::agent
