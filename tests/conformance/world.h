// SPDX-License-Identifier: Apache-2.0
// What the suite runs against and what its guests are made of, and what can be seen of the server
// from outside.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "control-plane/backend/machine_backend.h"

namespace hearth::conformance {

// Guests are small, so that a saved one is, too.
inline constexpr uint32_t kMemoryMib = 128;
// What code.img holds as /var/task/data: random, so that nothing packs it.
inline constexpr uint64_t kDataBytes = 1 << 20;
// For whatever another process does; the slowest is a boot on an emulated machine in another.
inline constexpr absl::Duration kPatience = absl::Minutes(2);

// What one process holds.
struct Footprint {
  uint64_t resident_bytes = 0;
  size_t descriptors = 0;
  size_t threads = 0;
  size_t zombies = 0;  // Children that have ended and were not reaped.
};

// From the environment, which tests/conformance/run sets:
//   HEARTH_CONFORMANCE_BACKEND  kvm or libvirt
//   HEARTH_CONFORMANCE_SOCKET   where hearth-launcher or hearth-libvirt listens
//   HEARTH_CONFORMANCE_PID      its process
//   HEARTH_CONFORMANCE_IMAGES   the image store
//   HEARTH_CONFORMANCE_ROUNDS   of the case that looks for leaks
//   HEARTH_CONFORMANCE_TRANSPORT  vsock or virtio-serial, when agents must be reached by that
//   HEARTH_CONFORMANCE_DAEMON   set when a libvirt daemon runs the machines: the folder that their
//                               command lines name
class World {
 public:
  // Fails the test that asks first, with what is missing.
  static World& Get();
  // Removes its files; the next Get() makes another.
  static void End();
  ~World();

  control::MachineBackend& backend() { return *backend_; }
  control::BackendCapabilities capabilities() const { return backend_->capabilities(); }
  int rounds() const { return rounds_; }
  pid_t server() const { return server_; }
  // The server is not who starts the machines' processes, and is not told how they ended.
  bool through_daemon() const { return !daemon_folder_.empty(); }

  // A machine with the image store's kernel, agent and base image, of a new id.
  control::MachineSpec Spec();
  std::string NewId();
  const std::vector<control::MachineDisk>& disks() const { return disks_; }
  std::vector<std::string> ListAlive();
  // The processes that run machines, without those that have ended: the server's children, or a
  // daemon's.
  std::vector<pid_t> Machines() const;
  // No machine is alive, by the backend's word and by the kernel's. Waits for those that are
  // ending.
  void RequireNoMachine();

 private:
  World();

  std::string folder_;
  std::string daemon_folder_;
  std::string kernel_;
  std::vector<control::MachineDisk> disks_;
  pid_t server_ = -1;
  int rounds_ = 0;
  int ids_ = 0;
  std::unique_ptr<control::MachineBackend> backend_;
};

Footprint FootprintOf(pid_t pid);

// Fails the test when `condition` does not come true in time. For what makes no event that we see.
void Await(const std::string& what, const std::function<bool()>& condition);

}  // namespace hearth::conformance
