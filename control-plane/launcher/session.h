// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hearth/launcher/v1/launcher.pb.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "wire/fd_socket.h"

namespace hearth::launcher {

class Session;

struct SpawnedVmm {
  int pid = -1;
  UniqueFd pidfd;  // The session's copy.
};

class SessionHost {
 public:
  virtual ~SessionHost() = default;
  virtual absl::StatusOr<SpawnedVmm> Spawn(Session* session, uint64_t id, uint32_t memory_mib,
                                           UniqueFd control) = 0;
  virtual void Kill(Session* session, uint64_t id) = 0;
  virtual void SetMemory(Session* session, uint64_t id, uint32_t memory_mib) = 0;
  virtual absl::StatusOr<UniqueFd> OpenPagemapOf(Session* session, uint64_t id) = 0;
  // The ids of those of the session's VMMs whose process runs.
  virtual std::vector<uint64_t> List(const Session* session) = 0;
  // The connection is over; destroys the session, not at once.
  virtual void Ended(Session* session, const absl::Status& why) = 0;
};

// One connection of a hearthd. The loop's thread.
class Session {
 public:
  // `hello` without its versions.
  static absl::StatusOr<std::unique_ptr<Session>> Create(EventLoop* loop, SessionHost* host,
                                                         UniqueFd connection, v1::Hello hello);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void SendExited(const v1::Exited& exited);

 private:
  Session(EventLoop* loop, SessionHost* host, UniqueFd connection)
      : loop_(loop), host_(host), socket_(std::move(connection)) {}
  void OnEvents(uint32_t events);
  absl::Status Receive();
  absl::Status Handle(wire::FdFrame frame);
  absl::Status HandleSpawn(const v1::Spawn& spawn, std::vector<UniqueFd> fds);
  absl::Status HandleOpenPagemap(const v1::OpenPagemap& request);
  absl::Status HandleList(const v1::List& request);
  absl::Status Send(const v1::Frame& frame, std::vector<UniqueFd> fds = {});
  absl::Status WatchForWriting();

  EventLoop* const loop_;
  SessionHost* const host_;
  wire::FdSocket socket_;
  uint32_t version_ = 0;  // That is spoken; 0: not greeted yet.
  bool watches_writing_ = false;
  bool ended_ = false;
};

}  // namespace hearth::launcher
