// SPDX-License-Identifier: Apache-2.0
#include "tests/node/launcher_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace hearth::testing {
namespace {

constexpr int kPatienceMs = 30'000;

}  // namespace

TemporaryFolder::TemporaryFolder() {
  char name[] = "/tmp/hearth-test-XXXXXX";
  REQUIRE(mkdtemp(name) != nullptr);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Program::Program(const std::string& program, std::vector<std::string> arguments, int error) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    if (error >= 0) dup2(error, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
}

Program::~Program() {
  Signal(SIGKILL);
  Wait();
}

void Program::Signal(int signal) {
  if (!reaped_) kill(pid_, signal);
}

int Program::Wait() {
  int status = 0;
  if (reaped_) return status;
  waitpid(pid_, &status, 0);
  reaped_ = true;
  return status;
}

LauncherProgram::LauncherProgram(const std::string& vmm, std::vector<std::string> more)
    : socket_(folder_.path() + "/launcher.sock") {
  // "ready" on its standard error tells that it listens.
  int log[2];
  REQUIRE(pipe2(log, O_CLOEXEC) == 0);
  const UniqueFd reader(log[0]);
  UniqueFd writer(log[1]);
  more.insert(more.begin(),
              {"--listen=" + socket_, "--vmm=" + vmm, "--allow-uid=" + std::to_string(getuid())});
  program_ = std::make_unique<Program>(HEARTH_LAUNCHER_BINARY, std::move(more), writer.get());
  writer.reset();
  std::string text;
  char piece[256];
  while (text.find("ready") == std::string::npos) {
    const ssize_t count = read(reader.get(), piece, sizeof(piece));
    if (count <= 0) break;
    text.append(piece, static_cast<size_t>(count));
  }
  INFO(text);
  REQUIRE(text.find("ready") != std::string::npos);
}

UniqueFd ConnectTo(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return UniqueFd();
  }
  return fd;
}

LauncherSession::LauncherSession(const std::string& path, uint32_t max_version)
    : socket_(ConnectTo(path)) {
  launcher::v1::Frame frame;
  frame.mutable_hello()->set_min_version(1);
  frame.mutable_hello()->set_max_version(max_version);
  Send(frame);
  const auto hello = socket_.BlockingReceive(kPatienceMs);
  REQUIRE(hello.ok());
  REQUIRE(frame.ParseFromString(hello->payload));
  REQUIRE(frame.has_hello());
}

void LauncherSession::Send(const launcher::v1::Frame& frame, std::vector<UniqueFd> fds) {
  const absl::Status sent = socket_.BlockingSend(frame.SerializeAsString(), std::move(fds));
  REQUIRE(sent.ok());
}

LauncherSession::Vmm LauncherSession::Spawn(uint32_t memory_mib) {
  auto ends = wire::MakeSocketPair();
  REQUIRE(ends.ok());
  Vmm vmm;
  vmm.id = next_id_++;
  vmm.control = std::move(ends->first);
  launcher::v1::Frame frame;
  frame.mutable_spawn()->set_id(vmm.id);
  frame.mutable_spawn()->set_memory_mib(memory_mib);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(ends->second));
  Send(frame, std::move(fds));
  auto answer = socket_.BlockingReceive(kPatienceMs);
  REQUIRE(answer.ok());
  REQUIRE(frame.ParseFromString(answer->payload));
  REQUIRE(frame.has_spawned());
  vmm.spawned = frame.spawned();
  if (vmm.spawned.error_code() == 0) {
    REQUIRE(answer->fds.size() == 1);
    vmm.pidfd = std::move(answer->fds[0]);
  }
  return vmm;
}

launcher::v1::Exited LauncherSession::AwaitExited() {
  launcher::v1::Frame frame;
  const auto received = socket_.BlockingReceive(kPatienceMs);
  REQUIRE(received.ok());
  REQUIRE(frame.ParseFromString(received->payload));
  REQUIRE(frame.has_exited());
  return frame.exited();
}

std::vector<uint64_t> LauncherSession::List() {
  launcher::v1::Frame frame;
  frame.mutable_list()->set_request(++next_id_);
  Send(frame);
  const auto received = socket_.BlockingReceive(kPatienceMs);
  REQUIRE(received.ok());
  REQUIRE(frame.ParseFromString(received->payload));
  REQUIRE(frame.has_listed());
  REQUIRE(frame.listed().request() == next_id_);
  return {frame.listed().ids().begin(), frame.listed().ids().end()};
}

bool HasEnded(const UniqueFd& pidfd) {
  pollfd polled{pidfd.get(), POLLIN, 0};
  return poll(&polled, 1, kPatienceMs) == 1;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace hearth::testing
