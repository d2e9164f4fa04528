// SPDX-License-Identifier: Apache-2.0
// Serves hearth.launcher.v1 as hearth-launcher does: a "VMM" is a machine session in this process.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "control-plane/backend/libvirt/machine.h"
#include "control-plane/launcher/session.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

struct ServerOptions {
  UniqueFd listener;         // A listening Unix socket, non-blocking.
  uint32_t allowed_uid = 0;  // Besides root and our own.
  MachineContext context;    // Without `reap` and `domains`, which are the server's.
  std::function<void(const std::string&)> log;
};

// The loop's thread, but for the two that say otherwise.
class Server final : public launcher::SessionHost {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Create(ServerOptions options);
  ~Server() override;

  // Ends every machine and stops the loop when all are gone.
  void ShutDown();
  void Reap();
  void OnDomainEnded(const std::string& domain, DomainEnd end);
  // A guest of this host has dialled the agents' port.
  void OnAgent(uint32_t vsock_cid, UniqueFd connection);
  // Every domain is gone, or will not be heard of again.
  void OnLost();

  // SessionHost.
  absl::StatusOr<launcher::SpawnedVmm> Spawn(launcher::Session* session, uint64_t id,
                                             uint32_t memory_mib, UniqueFd control) override;
  void Kill(launcher::Session* session, uint64_t id) override;
  void SetMemory(launcher::Session* session, uint64_t id, uint32_t memory_mib) override;
  absl::StatusOr<UniqueFd> OpenPagemapOf(launcher::Session* session, uint64_t id) override;
  std::vector<uint64_t> List(const launcher::Session* session) override;
  void Ended(launcher::Session* session, const absl::Status& why) override;

 private:
  struct Entry {
    launcher::Session* session = nullptr;  // Null when it has ended.
    uint64_t id = 0;                       // The session's name for it.
    bool ended = false;
    std::unique_ptr<Machine> machine;
  };

  explicit Server(ServerOptions options) : options_(std::move(options)) {}
  void Accept();
  absl::Status Admit(int connection);
  void OnMachineEnd(uint64_t number, const launcher::v1::Exited& exited);
  void StopWhenEmpty();

  ServerOptions options_;
  std::map<launcher::Session*, std::unique_ptr<launcher::Session>> sessions_;
  std::map<uint64_t, Entry> machines_;  // By our own number, never used twice.
  uint64_t next_number_ = 1;
  std::set<std::string> domains_;  // MachineContext::domains.
  bool shutting_down_ = false;
};

}  // namespace hearth::libvirt
