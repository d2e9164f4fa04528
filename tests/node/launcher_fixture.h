// SPDX-License-Identifier: Apache-2.0
// A hearth-launcher of the test's own, and a session with it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "hearth/launcher/v1/launcher.pb.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "wire/fd_socket.h"

namespace hearth::testing {

// A folder in memory or /tmp that goes with its contents.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Starts `program` with `arguments`; ends it when destroyed.
class Program {
 public:
  Program(const std::string& program, std::vector<std::string> arguments, int error = -1);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program();
  void Signal(int signal);
  int Wait();  // The wait status.
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
};

// A launcher that listens on folder/launcher.sock when this is constructed.
class LauncherProgram {
 public:
  explicit LauncherProgram(const std::string& vmm, std::vector<std::string> more = {});
  const std::string& socket() const { return socket_; }
  Program& program() { return *program_; }

 private:
  TemporaryFolder folder_;
  std::string socket_;
  std::unique_ptr<Program> program_;
};

// Speaks hearth.launcher.v1, one blocking step after the other.
class LauncherSession {
 public:
  // Speaks the versions up to `max_version`.
  explicit LauncherSession(const std::string& path, uint32_t max_version = 1);
  struct Vmm {
    uint64_t id = 0;
    launcher::v1::Spawned spawned;
    UniqueFd pidfd;
    UniqueFd control;
  };
  Vmm Spawn(uint32_t memory_mib = 128);
  void Send(const launcher::v1::Frame& frame, std::vector<UniqueFd> fds = {});
  launcher::v1::Exited AwaitExited();
  // The ids that the launcher names; from version 2 on.
  std::vector<uint64_t> List();
  wire::FdSocket& socket() { return socket_; }

 private:
  wire::FdSocket socket_;
  uint64_t next_id_ = 1;
};

UniqueFd ConnectTo(const std::string& path);
// Whether the process behind it has ended; waits at most 30 s.
bool HasEnded(const UniqueFd& pidfd);
std::string ReadFile(const std::string& path);

}  // namespace hearth::testing
