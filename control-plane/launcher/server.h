// SPDX-License-Identifier: Apache-2.0
// Serves hearth.launcher.v1. One thread; everything happens on the event loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "control-plane/launcher/cgroups.h"
#include "control-plane/launcher/session.h"
#include "control-plane/launcher/spawn.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::launcher {

struct ServerOptions {
  UniqueFd listener;         // A listening Unix socket, non-blocking.
  uint32_t allowed_uid = 0;  // Besides root.
  UniqueFd executable;       // hearth-vmm.
  UniqueFd device_folder;    // /dev.
  UniqueFd process_folder;   // /proc.
  UniqueFd null;
  int error = -1;                    // Where VMMs write what they have to say.
  std::unique_ptr<Cgroups> cgroups;  // Null: none.
  uint32_t uid_base = 0;
  uint32_t uid_count = 0;
  std::string build;
  std::function<void(const std::string&)> log;
};

class Server final : public SessionHost {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Create(EventLoop* loop, ServerOptions options);
  ~Server() override;

  // Ends every VMM and stops the loop when all are reaped.
  void ShutDown();

  // SessionHost.
  absl::StatusOr<SpawnedVmm> Spawn(Session* session, uint64_t id, uint32_t memory_mib,
                                   UniqueFd control) override;
  void Kill(Session* session, uint64_t id) override;
  void SetMemory(Session* session, uint64_t id, uint32_t memory_mib) override;
  absl::StatusOr<UniqueFd> OpenPagemapOf(Session* session, uint64_t id) override;
  std::vector<uint64_t> List(const Session* session) override;
  void Ended(Session* session, const absl::Status& why) override;

 private:
  struct Vmm {
    Session* session;  // Null when it has ended.
    uint64_t id;       // The session's name for it.
    uint32_t uid;
    pid_t pid;  // Its own until it is reaped, which is when this goes.
    UniqueFd pidfd;
  };

  Server(EventLoop* loop, ServerOptions options) : loop_(loop), options_(std::move(options)) {}
  void Accept();
  absl::Status Admit(int connection);
  absl::StatusOr<UniqueFd> OpenKvm();
  std::map<uint64_t, Vmm>::iterator Find(const Session* session, uint64_t id);
  absl::StatusOr<uint32_t> TakeUid();
  void Reap(uint64_t number);
  void StopWhenEmpty();

  EventLoop* const loop_;
  ServerOptions options_;
  std::map<Session*, std::unique_ptr<Session>> sessions_;
  std::map<uint64_t, Vmm> vmms_;       // By the launcher's own number, never used twice.
  std::map<uint32_t, uint64_t> uids_;  // In use, with the VMM's number.
  uint64_t next_number_ = 1;
  uint32_t next_uid_ = 0;  // Less the base.
  bool shutting_down_ = false;
};

}  // namespace hearth::launcher
