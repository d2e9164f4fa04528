// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

extern char** environ;

namespace hearth::control {
namespace {

constexpr size_t kKeptOutputBytes = 4096;

absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& arguments, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_adddup2(&actions, output, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (const int signal : {SIGTERM, SIGINT, SIGPIPE}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  // A group of its own, so that a kill reaches what it may have started.
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error == ENOENT) {
    return absl::FailedPreconditionError(
        absl::StrCat("the program ", arguments[0], " is not installed"));
  }
  if (error != 0) return ErrnoStatus(error, absl::StrCat("start ", arguments[0]));
  return pid;
}

}  // namespace

absl::StatusOr<ChildResult> RunChild(const std::vector<std::string>& arguments,
                                     const Cancellation& cancellation) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  UniqueFd out(fds[0]);
  UniqueFd in(fds[1]);
  ASSIGN_OR_RETURN(const pid_t pid, Spawn(arguments, in.get()));
  in.reset();
  ChildResult result;
  {
    // The child is not reaped while this stands, so the number cannot be another's.
    const auto registration = cancellation.OnCancel([pid] { kill(-pid, SIGKILL); });
    char buffer[4096];
    while (true) {
      const ssize_t got = read(out.get(), buffer, sizeof(buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      result.output.append(buffer, got);
      if (result.output.size() > kKeptOutputBytes) {
        result.output.erase(0, result.output.size() - kKeptOutputBytes);
      }
    }
    siginfo_t info = {};
    while (waitid(P_PID, pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("wait for ", arguments[0]));
  }
  if (cancellation.cancelled()) return absl::CancelledError("cancelled");
  if (WIFEXITED(status)) {
    result.exit_code = WEXITSTATUS(status);
  } else {
    result.signal = WTERMSIG(status);
  }
  return result;
}

}  // namespace hearth::control
