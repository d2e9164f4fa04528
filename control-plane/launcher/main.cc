// SPDX-License-Identifier: Apache-2.0
// hearth-launcher: the root process that spawns, jails and reaps VMMs for hearthd, which has no
// privileges.
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "control-plane/launcher/cgroups.h"
#include "control-plane/launcher/empty_root.h"
#include "control-plane/launcher/limits.h"
#include "control-plane/launcher/listener.h"
#include "control-plane/launcher/server.h"
#include "vmm/base/open_files.h"

namespace hearth::launcher {
namespace {

constexpr char kVersion[] = "hearth-launcher " HEARTH_VERSION;
constexpr char kUsage[] =
    "usage: hearth-launcher --listen=SOCKET --vmm=FILE --allow-uid=UID [OPTION...]\n"
    "\n"
    "Spawns microVM monitors for the hearthd that connects to SOCKET. Needs root.\n"
    "  --listen=SOCKET   the Unix socket to make, for UID alone\n"
    "  --listen-fd=N     instead: an inherited listening Unix socket\n"
    "  --vmm=FILE        the hearth-vmm program, statically linked\n"
    "  --allow-uid=UID   hearthd's user; root is always allowed\n"
    "  --uid-base=UID    the first of the uids that VMMs run under (2130706432)\n"
    "  --uid-count=N     how many of them (65536)\n"
    "  --cgroup=NAME     the folder of their cgroups, version 2 (hearth); empty: none\n"
    "  --vmm-stderr      let VMMs write to this standard error\n"
    "  --version, --help\n";
constexpr int kExitUsage = 2;

void Log(const std::string& line) {
  const std::string text = absl::StrCat("hearth-launcher: ", line, "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

struct Arguments {
  std::string listen;
  int listen_fd = -1;
  std::string vmm;
  uint32_t allow_uid = 0;
  bool allow_uid_given = false;
  uint32_t uid_base = kDefaultUidBase;
  uint32_t uid_count = kDefaultUidCount;
  std::string cgroup = "hearth";
  bool vmm_stderr = false;
};

bool TakeString(absl::string_view argument, absl::string_view name, std::string* value) {
  if (!absl::ConsumePrefix(&argument, name)) return false;
  *value = std::string(argument);
  return true;
}

template <typename Integer>
bool TakeNumber(absl::string_view argument, absl::string_view name, Integer* value) {
  return absl::ConsumePrefix(&argument, name) && absl::SimpleAtoi(argument, value);
}

absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (TakeString(argument, "--listen=", &a.listen) || TakeString(argument, "--vmm=", &a.vmm) ||
        TakeString(argument, "--cgroup=", &a.cgroup) ||
        TakeNumber(argument, "--listen-fd=", &a.listen_fd) ||
        TakeNumber(argument, "--uid-base=", &a.uid_base) ||
        TakeNumber(argument, "--uid-count=", &a.uid_count)) {
      continue;
    }
    if (TakeNumber(argument, "--allow-uid=", &a.allow_uid)) {
      a.allow_uid_given = true;
    } else if (argument == "--vmm-stderr") {
      a.vmm_stderr = true;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("bad argument ", argument));
    }
  }
  if (a.listen.empty() == (a.listen_fd < 0)) {
    return absl::InvalidArgumentError("one of --listen and --listen-fd is needed");
  }
  if (a.vmm.empty()) return absl::InvalidArgumentError("--vmm is needed");
  if (!a.allow_uid_given) return absl::InvalidArgumentError("--allow-uid is needed");
  if (a.cgroup.find('/') != std::string::npos || a.cgroup == "." || a.cgroup == "..") {
    return absl::InvalidArgumentError("--cgroup takes a name, not a path");
  }
  if (a.uid_base == 0 || a.uid_count == 0 || a.uid_base + a.uid_count < a.uid_base) {
    return absl::InvalidArgumentError("--uid-base and --uid-count are no range without root");
  }
  return a;
}

absl::StatusOr<UniqueFd> Listen(const Arguments& arguments) {
  if (arguments.listen_fd >= 0) {
    UniqueFd inherited(arguments.listen_fd);
    if (fcntl(inherited.get(), F_SETFD, FD_CLOEXEC) != 0 ||
        fcntl(inherited.get(), F_SETFL, O_NONBLOCK) != 0) {
      return ErrnoStatus(absl::StrCat("descriptor ", arguments.listen_fd, " was not inherited"));
    }
    return inherited;
  }
  return ListenFor(arguments.listen, arguments.allow_uid);
}

absl::StatusOr<UniqueFd> Open(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("opening ", path));
  return fd;
}

absl::StatusOr<ServerOptions> Prepare(const Arguments& arguments) {
  if (geteuid() != 0) {
    return absl::PermissionDeniedError(
        "it must be started as root: it makes namespaces and cgroups "
        "and runs each VMM under a user of its own");
  }
  ServerOptions options;
  ASSIGN_OR_RETURN(options.executable, Open(arguments.vmm, O_RDONLY | O_NOFOLLOW));
  struct stat info {};
  if (fstat(options.executable.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      (info.st_mode & 0111) == 0) {
    return absl::InvalidArgumentError(absl::StrCat(arguments.vmm, " is no program"));
  }
  ASSIGN_OR_RETURN(options.device_folder, Open("/dev", O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(options.process_folder, Open("/proc", O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(options.null, Open("/dev/null", O_RDWR));
  options.error = arguments.vmm_stderr ? STDERR_FILENO : options.null.get();
  options.allowed_uid = arguments.allow_uid;
  options.uid_base = arguments.uid_base;
  options.uid_count = arguments.uid_count;
  options.build = kVersion;
  options.log = Log;
  if (!arguments.cgroup.empty()) {
    ASSIGN_OR_RETURN(options.cgroups, Cgroups::Create(arguments.cgroup));
    if (!options.cgroups) {
      Log("no cgroup v2 with memory and pids here: VMMs are limited by rlimits only");
    }
  }
  ASSIGN_OR_RETURN(options.listener, Listen(arguments));
  return options;
}

absl::Status Run(const Arguments& arguments) {
  ASSIGN_OR_RETURN(ServerOptions options, Prepare(arguments));
  ASSIGN_OR_RETURN(const auto loop, EventLoop::Create());
  RaiseOpenFileLimit();      // A descriptor for each VMM; theirs is set when they are spawned.
  signal(SIGPIPE, SIG_IGN);  // Whoever reads the log may go.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const UniqueFd signals(signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return ErrnoStatus("signalfd");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoStatus("prctl(NO_NEW_PRIVS)");
  RETURN_IF_ERROR(EnterEmptyRoot());
  ASSIGN_OR_RETURN(const auto server, Server::Create(loop.get(), std::move(options)));
  RETURN_IF_ERROR(loop->Add(signals.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo taken;  // One that stays there would wake the loop again and again.
    [[maybe_unused]] const ssize_t size = read(signals.get(), &taken, sizeof(taken));
    server->ShutDown();
  }));
  Log("ready");
  return loop->Run();
}

}  // namespace

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument != "--help" && argument != "--version") continue;
    const std::string text = argument == "--help" ? kUsage : absl::StrCat(kVersion, "\n");
    [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    return 0;
  }
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) {
    Log(std::string(arguments.status().message()));
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kUsage, sizeof(kUsage) - 1);
    return kExitUsage;
  }
  const absl::Status status = Run(*arguments);
  if (!status.ok()) Log(std::string(status.message()));
  return status.ok() ? 0 : 1;
}

}  // namespace hearth::launcher

// Without the C library's clean-up: nothing is buffered, and a sanitizer's would look for the /proc
// that we have left.
int main(int argc, char** argv) { _exit(hearth::launcher::Main(argc, argv)); }
