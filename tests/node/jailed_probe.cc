// SPDX-License-Identifier: Apache-2.0
// Stands in for hearth-vmm: tells over its control socket what it finds around it. Static, so that
// it runs in an empty root.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

extern char** environ;

namespace {

std::string Report(int argc, char** argv) {
  char text[256];
  std::string report;
  snprintf(text, sizeof(text), "pid=%d uid=%u euid=%u gid=%u groups=%d no_new_privs=%d\n", getpid(),
           getuid(), geteuid(), getgid(), getgroups(0, nullptr),
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  report += text;
  report += "argv=";
  for (int i = 0; i < argc; ++i) report += std::string(argv[i]) + ";";
  report += environ[0] == nullptr ? "\nenv=empty\nfds=" : "\nenv=something\nfds=";
  for (int fd = 0; fd < 1024; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) report += std::to_string(fd) + ",";
  }
  report += "\nroot=";
  if (DIR* root = opendir("/")) {
    while (const dirent* entry = readdir(root)) {
      if (entry->d_name[0] != '.') report += std::string(entry->d_name) + ",";
    }
    closedir(root);
  }
  report += mkdir("/made", 0700) == 0 ? "\nmkdir=done" : std::string("\nmkdir=") + strerror(errno);
  report += chroot("/") == 0 ? "\nchroot=done" : "\nchroot=refused";
  report += setuid(0) == 0 ? "\nsetuid=done" : "\nsetuid=refused";
  ifreq interface {};
  interface.ifr_ifindex = 2;  // Anything beside the loopback.
  const int network = socket(AF_INET, SOCK_DGRAM, 0);
  report += ioctl(network, SIOCGIFNAME, &interface) == 0 ? "\nnetwork=some" : "\nnetwork=none";
  close(network);
  rlimit core{}, address{};
  getrlimit(RLIMIT_CORE, &core);
  getrlimit(RLIMIT_AS, &address);
  snprintf(text, sizeof(text), "\ncore=%lu as_mib=%lu\n", core.rlim_cur,
           address.rlim_cur / (1024 * 1024));
  return report + text;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kControl = 3;
  char command[64];
  bool deaf = false;
  while (true) {
    const ssize_t count = read(kControl, command, sizeof(command));
    if (count <= 0) {
      if (!deaf) return 0;
      pause();
      continue;
    }
    const std::string text(command, static_cast<size_t>(count));
    if (text == "report") {
      const std::string report = Report(argc, argv);
      if (write(kControl, report.data(), report.size()) < 0) return 3;
    } else if (text == "deaf") {
      deaf = true;
      if (write(kControl, "ok", 2) < 0) return 3;
    } else if (text == "fork") {
      if (fork() == 0) {
        while (true) pause();
      }
      if (write(kControl, "ok", 2) < 0) return 3;
    } else if (text == "exit") {
      return 42;
    }
  }
}
