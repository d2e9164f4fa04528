// SPDX-License-Identifier: Apache-2.0
// The hearth program itself, as a shell starts it: signals, and what it reads and writes.
#include <fcntl.h>
#include <pty.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
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

// What comes until the writers have gone, or `wanted` has come.
std::string ReadUntil(int fd, const std::string& wanted = "") {
  std::string text;
  char buffer[1024];
  while (wanted.empty() || text.find(wanted) == std::string::npos) {
    const ssize_t count = read(fd, buffer, sizeof buffer);
    if (count <= 0) break;  // A terminal whose other end has gone says EIO.
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

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

TEST_CASE("hearth: what stdout does not take is no success, but for a reader that has gone") {
  TemporaryFolder folder;
  FakeHearthd hearthd(folder / "socket");
  hearthd.invocation.set_outcome(hearth::v1::SUCCEEDED);
  const UniqueFd null = Open("/dev/null");
  const UniqueFd full = Open("/dev/full");
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd gone(ends[1]);
  UniqueFd(ends[0]).reset();
  const auto run = [&](std::vector<std::string> arguments, const UniqueFd& out) {
    arguments.insert(arguments.end(), {"--socket", folder / "socket"});
    return Program(arguments, null.get(), out.get(), null.get()).Wait();
  };
  CHECK(run({"list"}, null) == kExitOk);
  CHECK(run({"list"}, full) == kExitFailed);
  CHECK(run({"list"}, gone) == kExitOk);
  CHECK(run({"invoke", "f", "--json"}, null) == kExitOk);
  CHECK(run({"invoke", "f", "--json"}, full) == kExitResultLost);
  CHECK(run({"invoke", "f", "--json"}, gone) == kExitResultLost);
}

TEST_CASE("hearth: whoever wants no colours is asked all the same") {
  TemporaryFolder folder;
  FakeHearthd hearthd(folder / "socket");
  for (const bool json : {false, true}) {
    int terminal = -1, inside = -1;
    REQUIRE(openpty(&terminal, &inside, nullptr, nullptr, nullptr) == 0);
    const UniqueFd ours(terminal);
    UniqueFd theirs(inside);
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const UniqueFd out(ends[0]);
    UniqueFd writer(ends[1]);
    std::vector<std::string> arguments = {"delete", "f", "--socket", folder / "socket"};
    if (json) arguments.push_back("--json");
    Program hearth(arguments, theirs.get(), writer.get(), theirs.get(), "NO_COLOR=1");
    theirs.reset();
    writer.reset();
    CHECK(ReadUntil(ours.get(), "[y/N] ").find("Delete f?") != std::string::npos);
    REQUIRE(write(ours.get(), "n\n", 2) == 2);
    const std::string said = ReadUntil(out.get());
    CHECK(hearth.Wait() == kExitFailed);
    CHECK(hearthd.calls.empty());
    if (json) {
      CHECK(nlohmann::json::parse(said)["deleted"].is_null());
    } else {
      CHECK(said == "");
    }
  }
}

}  // namespace
}  // namespace hearth::cli
