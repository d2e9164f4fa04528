// SPDX-License-Identifier: Apache-2.0
// The hearth program itself, as a shell starts it.
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "cli/failure.h"
#include "cli/testing/fake_hearthd.h"
#include "vmm/base/unique_fd.h"

namespace hearth::cli {
namespace {

// `hearth ARGUMENTS` with these as its streams, and `environment` ("NAME=VALUE") beside ours.
class Program {
 public:
  Program(std::vector<std::string> arguments, int in, int out, int err,
          const std::string& environment = "HEARTH_TEST=1") {
    arguments.insert(arguments.begin(), {"/usr/bin/env", environment, HEARTH_BINARY});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    REQUIRE(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Program() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    Wait();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Signal(int signal) const { kill(pid_, signal); }
  // Its exit code, or -1 when a signal ended it.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = 0;
};

UniqueFd Open(const char* path) { return UniqueFd(open(path, O_RDWR | O_CLOEXEC)); }

TEST_CASE("hearth: the first Ctrl-C ends what cannot be ended in order") {
  TemporaryFolder folder;
  const std::string runs = folder / "runs";
  const std::string hangs = folder / "hangs";
  REQUIRE((mkfifo(runs.c_str(), 0600) == 0 && mkfifo(hangs.c_str(), 0600) == 0));
  const std::string probe = folder / "probe";
  // It says that it runs, then hangs until this test has ended.
  const UniqueFd held = Open(hangs.c_str());
  std::ofstream(probe) << "#!/bin/sh\necho > " << runs << "\nexec cat " << hangs << "\n";
  REQUIRE(chmod(probe.c_str(), 0755) == 0);
  const UniqueFd null = Open("/dev/null");
  Program hearth({"doctor", "--probe", probe}, null.get(), null.get(), null.get());
  std::ifstream(runs).get();
  hearth.Signal(SIGINT);
  CHECK(hearth.Wait() == kExitInterrupted);
}

}  // namespace
}  // namespace hearth::cli
