// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/programs.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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

absl::StatusOr<ProgramResult> RunProgram(std::vector<std::string> command, bool errors) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::UnknownError(std::strerror(errno));
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  if (errors) posix_spawn_file_actions_adddup2(&actions, writer.get(), STDERR_FILENO);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return absl::UnknownError(
        absl::StrCat("cannot run ", command.front(), ": ", std::strerror(error)));
  }
  writer.reset();
  ProgramResult result;
  char buffer[4096];
  while (true) {
    const ssize_t count = read(reader.get(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    result.output.append(buffer, static_cast<size_t>(count));
  }
  while (waitpid(pid, &result.wait_status, 0) < 0 && errno == EINTR) {
  }
  return result;
}

}  // namespace hearth::cli
