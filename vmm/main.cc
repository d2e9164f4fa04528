// SPDX-License-Identifier: Apache-2.0
// hearth-vmm: one microVM. Everything it works on arrives over the inherited control socket
// (hearth.vmm.v1); it opens no path and ends when that socket closes.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "vmm/base/event_loop.h"
#include "vmm/jail/jail.h"
#include "vmm/kvm/system.h"
#include "vmm/machine/control_server.h"

namespace hearth::vmm {
namespace {

constexpr char kVersion[] = "hearth-vmm " HEARTH_VERSION;
constexpr char kUsage[] =
    "usage: hearth-vmm --control-fd=N --kvm-fd=N\n"
    "\n"
    "Runs one microVM. It is started by hearth-launcher, not by hand.\n"
    "  --control-fd=N  an inherited stream socket that speaks hearth.vmm.v1\n"
    "  --kvm-fd=N      an inherited open /dev/kvm\n"
    "  --version, --help\n";

constexpr int kExitUsage = 2;

// One write to standard error; standard output is nobody's.
void Log(absl::string_view line) {
  const std::string text = absl::StrCat("hearth-vmm: ", line, "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

struct Arguments {
  int control_fd = -1;
  int kvm_fd = -1;
};

absl::StatusOr<Arguments> ParseArguments(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    int* target = absl::ConsumePrefix(&argument, "--control-fd=") ? &arguments.control_fd
                  : absl::ConsumePrefix(&argument, "--kvm-fd=")   ? &arguments.kvm_fd
                                                                  : nullptr;
    if (target == nullptr || !absl::SimpleAtoi(argument, target) || *target < 0) {
      return absl::InvalidArgumentError(absl::StrCat("bad argument ", argv[i]));
    }
  }
  for (const int fd : {arguments.control_fd, arguments.kvm_fd}) {
    if (fd < 0) return absl::InvalidArgumentError("--control-fd and --kvm-fd are both needed");
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
      return ErrnoStatus(absl::StrCat("descriptor ", fd, " was not inherited"));
    }
  }
  return arguments;
}

absl::Status Serve(const Arguments& arguments) {
  ASSIGN_OR_RETURN(System system, System::Create(UniqueFd(arguments.kvm_fd)));
  ASSIGN_OR_RETURN(const auto loop, EventLoop::Create());
  ControlServer::Options options;
  options.socket = UniqueFd(arguments.control_fd);
  options.system = std::move(system);
  options.loop = loop.get();
  options.build = kVersion;
  options.enter_main_jail = [] { return EnterJail(ThreadKind::kMain); };
  options.enter_vcpu_jail = [] { return EnterJail(ThreadKind::kVcpu); };
  options.enter_pager_watch_jail = [] { return EnterJail(ThreadKind::kPagerWatch); };
  options.log = [](std::string_view line) { Log({line.data(), line.size()}); };
  ASSIGN_OR_RETURN(auto server, ControlServer::Create(std::move(options)));
  RETURN_IF_ERROR(loop->Run());
  const absl::Status result = server->result();
  // The kernel takes everything apart faster than destructors would.
  if (!result.ok()) Log(result.message());
  _exit(result.ok() ? EXIT_SUCCESS : EXIT_FAILURE);
}

int Main(int argc, char** argv) {
  if (argc == 2) {
    const absl::string_view argument = argv[1];
    const std::string text = argument == "--help"      ? kUsage
                             : argument == "--version" ? absl::StrCat(kVersion, "\n")
                                                       : "";
    if (!text.empty()) {
      return write(STDOUT_FILENO, text.data(), text.size()) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    }
  }
  // One arena: a second one costs memory, and glibc's free would read a file under /proc to shrink
  // it, which the filters forbid.
  mallopt(M_ARENA_MAX, 1);
  signal(SIGPIPE, SIG_IGN);
  const auto arguments = ParseArguments(argc, argv);
  if (!arguments.ok()) {
    Log(arguments.status().message());
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kUsage, sizeof(kUsage) - 1);
    return kExitUsage;
  }
  const absl::Status status = Serve(*arguments);
  Log(status.message());
  return EXIT_FAILURE;
}

}  // namespace
}  // namespace hearth::vmm

int main(int argc, char** argv) { return hearth::vmm::Main(argc, argv); }
