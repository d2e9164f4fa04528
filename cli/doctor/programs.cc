// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/programs.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/format.h"
#include "vmm/base/unique_fd.h"

namespace hearth::cli {

std::string FindProgram(const std::string& name) {
  std::error_code error;
  const auto here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<std::filesystem::path> folders;
  for (const char* folder :
       {".", "../libexec/hearth", "../lib/hearth", "../sbin",
        // As they are built.
        "../vmm", "../vmm/kvm", "../control-plane/launcher", "../control-plane/backend/libvirt"}) {
    folders.push_back(here / folder);
  }
  const char* path = std::getenv("PATH");
  for (const auto& folder : absl::StrSplit(path != nullptr ? path : "/usr/bin:/bin", ':')) {
    folders.emplace_back(std::string(folder));
  }
  folders.emplace_back("/usr/sbin");
  for (const auto& folder : folders) {
    const auto file = folder / name;
    // A folder may be executed, too.
    if (std::filesystem::is_regular_file(file, error) && access(file.c_str(), X_OK) == 0) {
      return file.lexically_normal().string();
    }
  }
  return "";
}

namespace {

using Clock = std::chrono::steady_clock;

// How long a program has to be gone after SIGKILL. One that a driver holds in the kernel is left.
constexpr auto kEndTime = std::chrono::seconds(1);

// Whether `fd` has something to be read, its end too, before `deadline`.
bool ReadableBy(int fd, Clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd one{fd, POLLIN, 0};
    const int ready = poll(&one, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

// Starts it with `output` as its stdout, with `errors` as its stderr too.
absl::StatusOr<pid_t> Start(std::vector<std::string> command, int output, bool errors) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  if (errors) posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  // We block and ignore signals for our own purposes; Ctrl-C is meant for it, too.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t set;
  sigemptyset(&set);
  posix_spawnattr_setsigmask(&attributes, &set);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&set, signal);
  posix_spawnattr_setsigdefault(&attributes, &set);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) return pid;
  return absl::UnknownError(
      absl::StrCat("cannot run ", command.front(), ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<ProgramResult> RunProgram(const std::vector<std::string>& command, bool errors,
                                         std::chrono::milliseconds time_out) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::UnknownError(std::strerror(errno));
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const auto deadline = Clock::now() + time_out;
  const absl::StatusOr<pid_t> pid = Start(command, writer.get(), errors);
  if (!pid.ok()) return pid.status();
  writer.reset();
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, *pid, 0)));
  ProgramResult result;
  char buffer[4096];
  bool ended = false;
  while (!ended && ReadableBy(reader.get(), deadline)) {
    const ssize_t count = read(reader.get(), buffer, sizeof buffer);
    if (count > 0) result.output.append(buffer, static_cast<size_t>(count));
    ended = count == 0 || (count < 0 && errno != EINTR);
  }
  // It may have closed its output and run on.
  if (ended && process) ended = ReadableBy(process.get(), deadline);
  if (!ended) {
    kill(*pid, SIGKILL);
    ReadableBy(process.get(), Clock::now() + kEndTime);
  }
  waitpid(*pid, &result.wait_status, ended ? 0 : WNOHANG);
  if (ended) return result;
  return absl::DeadlineExceededError(absl::StrCat(command.front(), " did not end within ",
                                                  FormatDuration(time_out.count() / 1000.0)));
}

}  // namespace hearth::cli
