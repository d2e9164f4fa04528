// SPDX-License-Identifier: Apache-2.0
#include "bench/qemu_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace hearth::bench {
namespace {

constexpr int kQemuTimeoutMs = 120'000;
constexpr int kExtraFd = 3;

}  // namespace

absl::StatusOr<std::unique_ptr<QemuProcess>> QemuProcess::Spawn(std::vector<std::string> arguments,
                                                                int extra_fd) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  if (extra_fd >= 0) posix_spawn_file_actions_adddup2(&actions, extra_fd, kExtraFd);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("spawning ", arguments[0]));
  return std::unique_ptr<QemuProcess>(new QemuProcess(pid, std::move(reader)));
}

QemuProcess::~QemuProcess() {
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status QemuProcess::DrainUntil(int other, const std::string& text) {
  std::string seen;
  while (seen.find(text) == std::string::npos) {
    std::array<pollfd, 2> entries{{{output_.get(), POLLIN, 0}, {other, POLLIN, 0}}};
    char buffer[4096];
    if (poll(entries.data(), entries.size(), kQemuTimeoutMs) <= 0) {
      return absl::DeadlineExceededError(absl::StrCat("QEMU never said ", text, " but ", seen));
    }
    if (entries[0].revents != 0 && read(output_.get(), buffer, sizeof buffer) <= 0) {
      return absl::DataLossError("QEMU ended; what it said is above");
    }
    if (entries[1].revents == 0) continue;
    const ssize_t count = read(other, buffer, sizeof buffer);
    if (count <= 0) return absl::DataLossError(absl::StrCat("QEMU's monitor ended after ", seen));
    seen.append(buffer, static_cast<size_t>(count));
    if (seen.find("failed") != std::string::npos) {
      return absl::UnavailableError(absl::StrCat("QEMU said: ", seen));
    }
  }
  return absl::OkStatus();
}

}  // namespace hearth::bench
