// SPDX-License-Identifier: Apache-2.0
// Machines of hearth-vmm, spawned by hearth-launcher and driven over hearth.vmm.v1.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "control-plane/backend/machine_backend.h"
#include "wire/handshake.h"
#include "wire/limits.h"

namespace hearth::control {

struct KvmBackendConfig {
  std::string launcher_socket;  // hearth-launcher's Unix socket.
  std::string build;            // Told to launcher and VMMs, for their logs.
  wire::VersionRange vmm_versions = {wire::kVmmMinVersion, wire::kVmmMaxVersion};
  // For each answer of the launcher and of a VMM.
  absl::Duration answer_timeout = absl::Seconds(10);
  // What the launcher's machines can do: those of hearth-vmm, or LibvirtCapabilities().
  BackendCapabilities capabilities = {
      .name = "kvm", .clones = true, .hot_restore = true, .memory_sharing = true};
};

// When hearth-libvirt stands in hearth-launcher's place.
BackendCapabilities LibvirtCapabilities();

// Thread-safe. The launcher is connected to when the first machine is made, and again after it was
// lost. Outlives its machines.
class KvmBackend final : public MachineBackend {
 public:
  static absl::StatusOr<std::unique_ptr<KvmBackend>> Create(KvmBackendConfig config);
  ~KvmBackend() override;

  // UNAVAILABLE: no launcher answers. FAILED_PRECONDITION: the host lacks something (says what).
  absl::StatusOr<std::unique_ptr<Machine>> Create(MachineSpec spec) override;
  absl::StatusOr<std::unique_ptr<Machine>> Restore(RestoreSpec spec) override;
  // UNIMPLEMENTED: the launcher is older than hearthd.
  absl::StatusOr<std::vector<std::string>> ListAlive() override;
  // Spawns one to ask it.
  absl::StatusOr<std::string> VmmVersion() override;
  // Whoever makes a machine gets one of these before one is spawned for it.
  void SetWaiting(size_t count) override;
  size_t waiting() const;  // How many wait now.
  BackendCapabilities capabilities() const override;

 private:
  class Impl;
  explicit KvmBackend(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::control
