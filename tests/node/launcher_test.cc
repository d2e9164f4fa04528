// SPDX-License-Identifier: Apache-2.0
// hearth-launcher with a probe in hearth-vmm's place. Needs root and a /dev/kvm to hand on.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/node/launcher_fixture.h"

namespace hearth::testing {
namespace {

bool CanRun() {
  if (geteuid() != 0) {
    std::printf("SKIPPED: launcher tests need root\n");
    return false;
  }
  if (access("/dev/kvm", R_OK | W_OK) != 0) {
    std::printf("SKIPPED: launcher tests need a /dev/kvm to hand on: %s\n", std::strerror(errno));
    return false;
  }
  return true;
}

#define REQUIRE_LAUNCHER() \
  do {                     \
    if (!CanRun()) return; \
  } while (false)

std::string Ask(const LauncherSession::Vmm& vmm, const std::string& command) {
  REQUIRE(write(vmm.control.get(), command.data(), command.size()) ==
          static_cast<ssize_t>(command.size()));
  char text[4096];
  const ssize_t count = read(vmm.control.get(), text, sizeof(text));
  REQUIRE(count > 0);
  return std::string(text, static_cast<size_t>(count));
}

std::string Namespace(pid_t pid, const std::string& kind) {
  char target[64] = {};
  const ssize_t size =
      readlink(absl::StrCat("/proc/", pid, "/ns/", kind).c_str(), target, sizeof(target) - 1);
  REQUIRE(size > 0);
  return target;
}

std::string ChildrenOf(pid_t pid) {
  return ReadFile(absl::StrCat("/proc/", pid, "/task/", pid, "/children"));
}

size_t DescriptorsOf(pid_t pid) {
  DIR* const folder = opendir(absl::StrCat("/proc/", pid, "/fd").c_str());
  REQUIRE(folder != nullptr);
  size_t count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

TEST_CASE("launcher: a VMM has nothing but its descriptors") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--uid-base=700000", "--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm first = session.Spawn(256);
  const LauncherSession::Vmm second = session.Spawn(256);
  INFO(first.spawned.ShortDebugString());
  REQUIRE(first.spawned.error_code() == 0);
  const std::string report = Ask(first, "report");
  INFO(report);
  CHECK(absl::StrContains(report,
                          "pid=1 uid=700000 euid=700000 gid=700000 groups=0 no_new_privs=1\n"));
  CHECK(absl::StrContains(report, "argv=hearth-vmm;--control-fd=3;--kvm-fd=4;\n"));
  CHECK(absl::StrContains(report, "env=empty\n"));
  CHECK(absl::StrContains(report, "fds=0,1,2,3,4,\n"));
  CHECK(absl::StrContains(report, "root=\n"));
  CHECK_FALSE(absl::StrContains(report, "mkdir=done"));
  CHECK(absl::StrContains(report, "chroot=refused"));
  CHECK(absl::StrContains(report, "setuid=refused"));
  CHECK(absl::StrContains(report, "network=none"));
  CHECK(absl::StrContains(report, "core=0 as_mib=1280\n"));
  CHECK(absl::StrContains(Ask(second, "report"), "uid=700001"));
  for (const char* kind : {"mnt", "pid", "net", "ipc", "uts"}) {
    INFO(kind);
    // /proc/[pid]/ns/pid of the process is the one it is in.
    const std::string inside = Namespace(first.spawned.pid(), kind);
    CHECK(inside != Namespace(getpid(), kind));
    CHECK(inside != Namespace(second.spawned.pid(), kind));
  }
}

TEST_CASE("launcher: an exit is told with its code or signal, and leaves no zombie") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm exits = session.Spawn();
  REQUIRE(write(exits.control.get(), "exit", 4) == 4);
  launcher::v1::Exited exited = session.AwaitExited();
  CHECK(exited.id() == exits.id);
  CHECK(exited.exit_code() == 42);
  CHECK(exited.signal() == 0);
  CHECK(exited.peak_rss_bytes() > 0);

  const LauncherSession::Vmm killed = session.Spawn();
  launcher::v1::Frame frame;
  frame.mutable_kill()->set_id(killed.id);
  session.Send(frame);
  exited = session.AwaitExited();
  CHECK(exited.id() == killed.id);
  CHECK(exited.signal() == SIGKILL);
  CHECK(ChildrenOf(launcher.program().pid()).empty());
}

TEST_CASE("launcher: all VMMs of a session end when its connection closes, and only those") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession stays(launcher.socket());
  const LauncherSession::Vmm other = stays.Spawn();
  std::vector<LauncherSession::Vmm> vmms;
  {
    LauncherSession session(launcher.socket());
    for (int i = 0; i < 5; ++i) vmms.push_back(session.Spawn());
    // Deaf ones would not notice that their control socket closed, and their children neither.
    for (const auto& vmm : vmms) CHECK(Ask(vmm, "deaf") == "ok");
    CHECK(Ask(vmms[0], "fork") == "ok");
  }
  for (const auto& vmm : vmms) CHECK(HasEnded(vmm.pidfd));
  CHECK(Ask(other, "deaf") == "ok");
  // What has ended is reaped: only the other one is left.
  const std::string left = absl::StrCat(other.spawned.pid(), " ");
  while (ChildrenOf(launcher.program().pid()) != left) std::this_thread::yield();
}

TEST_CASE("launcher: VMMs end with their launcher, killed or told to stop") {
  REQUIRE_LAUNCHER();
  const int signal = GENERATE(SIGKILL, SIGTERM);
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm vmm = session.Spawn();
  CHECK(Ask(vmm, "deaf") == "ok");
  launcher.program().Signal(signal);
  CHECK(HasEnded(vmm.pidfd));
  const int status = launcher.program().Wait();
  if (signal == SIGTERM) CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("launcher: told to stop, it ends, and with it what was asked for meanwhile") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  // Both are there when it runs on; which it sees first is the kernel's to say.
  launcher.program().Signal(SIGSTOP);
  REQUIRE(waitpid(launcher.program().pid(), nullptr, WUNTRACED) == launcher.program().pid());
  launcher.program().Signal(SIGTERM);
  auto ends = wire::MakeSocketPair();
  REQUIRE(ends.ok());
  launcher::v1::Frame frame;
  frame.mutable_spawn()->set_id(1);
  frame.mutable_spawn()->set_memory_mib(128);
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(ends->second));
  session.Send(frame, std::move(fds));
  launcher.program().Signal(SIGCONT);
  const auto answer = session.socket().BlockingReceive(30'000);
  REQUIRE(answer.ok());
  REQUIRE(frame.ParseFromString(answer->payload));
  if (frame.spawned().error_code() == 0) {
    CHECK(HasEnded(answer->fds.at(0)));
  } else {
    CHECK(frame.spawned().error_code() == static_cast<int>(absl::StatusCode::kUnavailable));
  }
  const int status = launcher.program().Wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("launcher: a hundred VMMs one after the other leave nothing in it") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup=", "--uid-count=3"});
  LauncherSession session(launcher.socket());
  session.Spawn();
  session.AwaitExited();
  const size_t before = DescriptorsOf(launcher.program().pid());
  for (int i = 0; i < 100; ++i) {
    // The control socket closes with the temporary, and so the probe ends.
    REQUIRE(session.Spawn().spawned.error_code() == 0);
    CHECK(session.AwaitExited().exit_code() == 0);
  }
  CHECK(DescriptorsOf(launcher.program().pid()) == before);
}

TEST_CASE("launcher: no more VMMs than there are uids") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup=", "--uid-count=2"});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm one = session.Spawn();
  const LauncherSession::Vmm two = session.Spawn();
  const LauncherSession::Vmm three = session.Spawn();
  CHECK(three.spawned.error_code() == static_cast<int>(absl::StatusCode::kResourceExhausted));
}

TEST_CASE("launcher: who breaks the protocol or is somebody else loses the connection") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  launcher::v1::Frame frame;
  SECTION("a Spawn without its socket") {
    frame.mutable_spawn()->set_id(1);
    frame.mutable_spawn()->set_memory_mib(128);
    session.Send(frame);
  }
  SECTION("a SetMemory without memory") {
    frame.mutable_set_memory()->set_id(1);
    session.Send(frame);
  }
  SECTION("more memory than any host has") {
    frame.mutable_set_memory()->set_id(1);
    frame.mutable_set_memory()->set_memory_mib(UINT32_MAX);
    session.Send(frame);
  }
  SECTION("what is no frame") { REQUIRE(session.socket().BlockingSend("\xFF\xFF\xFF").ok()); }
  SECTION("a frame that only the launcher sends") {
    frame.mutable_exited();
    session.Send(frame);
  }
  CHECK(session.socket().BlockingReceive(30'000).status().code() == absl::StatusCode::kUnavailable);
  LauncherSession next(launcher.socket());
  CHECK(next.Spawn().spawned.error_code() == 0);
}

TEST_CASE("launcher: a VMM spawned ahead of its guest is limited when it gets one") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm vmm = session.Spawn(/*memory_mib=*/0);
  REQUIRE(vmm.spawned.error_code() == 0);
  const std::string path = absl::StrCat("/proc/", vmm.spawned.pid(), "/limits");
  CHECK(absl::StrContains(ReadFile(path), "Max address space         unlimited"));
  launcher::v1::Frame frame;
  frame.mutable_set_memory()->set_id(vmm.id);
  frame.mutable_set_memory()->set_memory_mib(100);
  session.Send(frame);
  frame.mutable_open_pagemap()->set_id(vmm.id);  // Answered, so the frame before it is done.
  frame.mutable_open_pagemap()->set_request(7);
  session.Send(frame);
  const auto answer = session.socket().BlockingReceive(30'000);
  REQUIRE(answer.ok());
  const std::string limit = absl::StrCat((100 + 1024) * 1024 * 1024);
  CHECK(absl::StrContains(ReadFile(path), absl::StrCat("Max address space         ", limit)));
}

TEST_CASE("launcher: a pagemap tells what is present, never where") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm vmm = session.Spawn();
  CHECK(Ask(vmm, "deaf") == "ok");  // It runs, so some of its pages are there.
  launcher::v1::Frame frame;
  frame.mutable_open_pagemap()->set_id(vmm.id);
  frame.mutable_open_pagemap()->set_request(7);
  session.Send(frame);
  const auto answer = session.socket().BlockingReceive(30'000);
  REQUIRE(answer.ok());
  REQUIRE(frame.ParseFromString(answer->payload));
  REQUIRE(frame.pagemap().request() == 7);
  REQUIRE(frame.pagemap().error_code() == 0);
  REQUIRE(answer->fds.size() == 1);
  // The program's first page: its header, which the kernel has read.
  std::ifstream maps(absl::StrCat("/proc/", vmm.spawned.pid(), "/maps"));
  uint64_t address = 0;
  maps >> std::hex >> address;
  REQUIRE(address != 0);
  int present = 0;
  for (uint64_t page = address / 4096; page < address / 4096 + 16; ++page) {
    uint64_t entry = 0;
    REQUIRE(pread(answer->fds[0].get(), &entry, sizeof(entry), static_cast<off_t>(page * 8)) == 8);
    present += static_cast<int>(entry >> 63);
    CHECK((entry & ((uint64_t{1} << 55) - 1)) == 0);  // pagemap.rst: bits 0 to 54, the frame.
  }
  CHECK(present > 0);

  frame.mutable_open_pagemap()->set_id(vmm.id + 1);
  session.Send(frame);
  const auto refused = session.socket().BlockingReceive(30'000);
  REQUIRE(refused.ok());
  REQUIRE(frame.ParseFromString(refused->payload));
  CHECK(frame.pagemap().error_code() == static_cast<int>(absl::StatusCode::kNotFound));
}

TEST_CASE("launcher: a session is told which of its VMMs run, and of no other's") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket(), /*max_version=*/2);
  LauncherSession other(launcher.socket(), /*max_version=*/2);
  CHECK(session.List().empty());
  const LauncherSession::Vmm first = session.Spawn();
  const LauncherSession::Vmm second = session.Spawn();
  const LauncherSession::Vmm theirs = other.Spawn();
  std::vector<uint64_t> listed = session.List();
  std::sort(listed.begin(), listed.end());
  CHECK(listed == std::vector<uint64_t>{first.id, second.id});
  CHECK(other.List() == std::vector<uint64_t>{theirs.id});
  REQUIRE(write(first.control.get(), "exit", 4) == 4);
  CHECK(session.AwaitExited().id() == first.id);
  CHECK(session.List() == std::vector<uint64_t>{second.id});
}

TEST_CASE("launcher: hearthd of version 1 is served, and does not know List") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket(), /*max_version=*/1);
  const LauncherSession::Vmm vmm = session.Spawn();
  CHECK(vmm.spawned.error_code() == 0);
  launcher::v1::Frame frame;
  frame.mutable_list()->set_request(1);
  session.Send(frame);
  CHECK(session.socket().BlockingReceive(30'000).status().code() == absl::StatusCode::kUnavailable);
}

TEST_CASE("launcher: who asks for lists and reads none loses the connection") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  LauncherSession session(launcher.socket(), /*max_version=*/2);
  launcher::v1::Frame frame;
  frame.mutable_list()->set_request(UINT64_MAX);
  const std::string list = frame.SerializeAsString();
  // More answers than a socket and the launcher's queue hold.
  absl::Status sent;
  for (int i = 0; i < 1'000'000 && sent.ok(); ++i) sent = session.socket().BlockingSend(list);
  CHECK(sent.code() == absl::StatusCode::kUnavailable);
  LauncherSession next(launcher.socket(), /*max_version=*/2);
  CHECK(next.List().empty());
}

TEST_CASE("launcher: another user is refused") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher(HEARTH_PROBE_BINARY, {"--cgroup="});
  // Even if it gets past the socket's mode.
  REQUIRE(chmod(launcher.socket().c_str(), 0666) == 0);
  const std::string folder = launcher.socket().substr(0, launcher.socket().rfind('/'));
  REQUIRE(chmod(folder.c_str(), 0755) == 0);
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(4711) != 0) _exit(1);
    const UniqueFd socket = ConnectTo(launcher.socket());
    char byte;
    _exit(socket && read(socket.get(), &byte, 1) == 0 ? 0 : 2);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
}

std::string ErrorsOf(std::vector<std::string> arguments, int* code, bool as_nobody = false) {
  int log[2];
  REQUIRE(pipe2(log, O_CLOEXEC) == 0);
  const UniqueFd reader(log[0]);
  UniqueFd writer(log[1]);
  Program program(as_nobody ? "/usr/bin/setpriv" : HEARTH_LAUNCHER_BINARY, std::move(arguments),
                  writer.get());
  writer.reset();
  std::string text;
  char piece[512];
  for (ssize_t count; (count = read(reader.get(), piece, sizeof(piece))) > 0;) {
    text.append(piece, static_cast<size_t>(count));
  }
  *code = WEXITSTATUS(program.Wait());
  return text;
}

TEST_CASE("launcher: what is wrong at the start is said") {
  REQUIRE_LAUNCHER();
  TemporaryFolder folder;
  const std::string listen = "--listen=" + folder.path() + "/socket";
  int code = 0;
  CHECK(absl::StrContains(ErrorsOf({listen, "--vmm=/nowhere/vmm", "--allow-uid=0"}, &code),
                          "opening /nowhere/vmm"));
  CHECK(code == 1);
  CHECK(absl::StrContains(ErrorsOf({listen, "--vmm=/etc/passwd", "--allow-uid=0"}, &code),
                          "is no program"));
  CHECK(absl::StrContains(ErrorsOf({listen, "--allow-uid=0"}, &code), "--vmm is needed"));
  CHECK(code == 2);
  CHECK(absl::StrContains(ErrorsOf({"--nonsense"}, &code), "bad argument --nonsense"));
  LauncherProgram running(HEARTH_PROBE_BINARY, {"--cgroup="});
  CHECK(absl::StrContains(
      ErrorsOf({"--listen=" + running.socket(), "--vmm=" + std::string(HEARTH_PROBE_BINARY),
                "--allow-uid=0", "--cgroup="},
               &code),
      "another program listens"));
}

TEST_CASE("launcher: a VMM that is not static cannot run, and that is said") {
  REQUIRE_LAUNCHER();
  LauncherProgram launcher("/usr/bin/env", {"--cgroup="});
  LauncherSession session(launcher.socket());
  const LauncherSession::Vmm vmm = session.Spawn();
  CHECK(vmm.spawned.error_code() != 0);
  CHECK(absl::StrContains(vmm.spawned.error(), "execveat"));
  CHECK(ChildrenOf(launcher.program().pid()).empty());
}

}  // namespace
}  // namespace hearth::testing
