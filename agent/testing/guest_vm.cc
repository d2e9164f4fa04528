// SPDX-License-Identifier: Apache-2.0
#include "agent/testing/guest_vm.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hearth::agent {
namespace {

UniqueFd Listen(const std::string& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  return listener;
}

}  // namespace

bool GuestVm::Possible() {
  if (system("command -v qemu-system-x86_64 >/dev/null") != 0) {
    WARN("SKIPPED: needs qemu-system-x86_64");
    return false;
  }
  return GuestFiles::Possible();
}

GuestVm::GuestVm(const std::map<std::string, std::string>& code, const std::string& runtime,
                 int memory_mib)
    : files_(code, runtime) {
  std::vector<std::string> arguments = {
      "qemu-system-x86_64",
      "-M",
      "microvm,acpi=off,isa-serial=on",
      "-accel",
      "tcg",
      "-cpu",
      "max",
      "-m",
      std::to_string(memory_mib),
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
      "-kernel",
      files_.kernel(),
      "-append",
      "console=ttyS0 quiet reboot=t panic=-1 root=/dev/vda ro init=/hearth-agent "
      "hearth.transport=virtio-serial",
      "-serial",
      absl::StrCat("file:", files_.directory(), "/console"),
      "-device",
      "virtio-rng-device",
      "-chardev",
      absl::StrCat("socket,id=agent,path=", files_.directory(), "/agent.sock"),
      "-device",
      "virtio-serial-device",
      "-device",
      "virtserialport,chardev=agent,name=agent"};
  for (const auto& [serial, file] : files_.disks()) {
    arguments.insert(
        arguments.end(),
        {"-drive", absl::StrCat("id=", serial, ",file=", file, ",format=raw,if=none,readonly=on"),
         "-device", absl::StrCat("virtio-blk-device,drive=", serial, ",serial=", serial)});
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  const UniqueFd listener = Listen(files_.directory() + "/agent.sock");
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  pollfd ready = {listener.get(), POLLIN, 0};
  REQUIRE(poll(&ready, 1, 30'000) == 1);
  UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  REQUIRE(connection);
  host_ = std::make_unique<TestHost>(std::move(connection));
}

GuestVm::~GuestVm() {
  host_.reset();
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void GuestVm::Configure(const agent::v1::ResourceLimits& limits) {
  const agent::v1::Reply reply = host_->Call(GuestFiles::ConfigureCall(limits));
  INFO(reply.error().message());
  REQUIRE_FALSE(reply.has_error());
}

void GuestVm::WaitForReset() {
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
}

std::string GuestVm::Console() const {
  std::ifstream file(files_.directory() + "/console");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace hearth::agent
