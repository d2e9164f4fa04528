// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/qemu_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "control-plane/backend/libvirt/domain_xml.h"
#include "control-plane/backend/libvirt/embedded_uri.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

namespace fs = std::filesystem;

constexpr size_t kShortNameBytes = 20;  // libvirt's VIR_DOMAIN_SHORT_NAME_MAX.

// What can be read. The process behind a file of /proc may be gone by then: an iterator over the
// file would throw.
std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> Entries(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  return names;
}

// Where libvirt's driver keeps the processes' numbers, and QEMU's logs.
struct DriverFolders {
  std::string pids;
  std::string logs;
};

DriverFolders FoldersOf(const std::string& uri) {
  const std::string root = EmbeddedRoot(uri);
  if (!root.empty()) return {root + "/run/qemu", root + "/log/qemu"};
  if (!absl::StartsWith(uri, "qemu:///session")) {
    return {"/run/libvirt/qemu", "/var/log/libvirt/qemu"};
  }
  const auto variable = [](const char* name) {
    const char* const value = getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  const std::string runtime = variable("XDG_RUNTIME_DIR"), cache = variable("XDG_CACHE_HOME");
  const std::string caches =
      absl::StrCat(cache.empty() ? variable("HOME") + "/.cache" : cache, "/libvirt/qemu");
  return {runtime.empty() ? caches + "/run" : runtime + "/libvirt/qemu/run", caches + "/log"};
}

std::string CommandLineOf(absl::string_view pid) {
  return ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
}

// The domain that a QEMU of libvirt's runs; empty for other processes.
absl::string_view DomainOf(absl::string_view command_line) {
  constexpr absl::string_view kGuest = "guest=";
  const size_t at = command_line.find(kGuest);
  if (at == absl::string_view::npos) return "";
  command_line.remove_prefix(at + kGuest.size());
  return command_line.substr(0, command_line.find(','));
}

// Files are named NAME.xml and the like; folders domain-NUMBER-NAME, with a part of the name only.
bool IsOfOurs(absl::string_view entry) {
  if (absl::StartsWith(entry, "qmp-")) return true;
  if (!absl::ConsumePrefix(&entry, "domain-")) {
    return IsDomainName(entry.substr(0, entry.find('.')));
  }
  constexpr absl::string_view kAnyName = "hearth-00000000-0000-0000-0000-000000000000";
  const size_t dash = entry.find('-');
  if (dash == absl::string_view::npos) return false;
  entry.remove_prefix(dash + 1);
  return entry.size() >= kShortNameBytes && entry.size() <= kAnyName.size() &&
         IsDomainName(absl::StrCat(entry, kAnyName.substr(entry.size())));
}

absl::StatusOr<UniqueFd> OpenPidfd(pid_t pid) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return ErrnoStatus(absl::StrCat("pidfd_open of ", pid));
  return pidfd;
}

struct ProcessStat {
  std::string name;
  char state = '?';
  pid_t session = -1;
};

// proc(5), /proc/PID/stat. The name stands in parentheses and may hold some itself.
ProcessStat StatOf(absl::string_view pid) {
  ProcessStat stat;
  const std::string text = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const size_t begin = text.find('('), end = text.rfind(')');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return stat;
  stat.name = text.substr(begin + 1, end - begin - 1);
  const std::vector<std::string> rest =
      absl::StrSplit(text.substr(end + 1), ' ', absl::SkipEmpty());
  constexpr size_t kSession = 3;  // After state, parent and process group.
  if (rest.size() <= kSession || !absl::SimpleAtoi(rest[kSession], &stat.session)) return stat;
  stat.state = rest[0][0];
  return stat;
}

uint64_t Nanoseconds(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}

absl::Status EndByForce(const QemuProcess& process) {
  RETURN_IF_ERROR(Kill(process));
  if (AwaitEnd(process, kProcessEndTimeoutMs)) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("QEMU ", process.pid, " does not end"));
}

absl::Status EndOrphan(pid_t pid) {
  absl::StatusOr<UniqueFd> pidfd = OpenPidfd(pid);
  if (!pidfd.ok()) return absl::OkStatus();  // It is gone.
  return EndByForce({pid, *std::move(pidfd)});
}

}  // namespace

absl::StatusOr<QemuProcess> FindQemu(const std::string& uri, const std::string& domain) {
  const std::string file = absl::StrCat(FoldersOf(uri).pids, "/", domain, ".pid");
  QemuProcess process;
  if (!absl::SimpleAtoi(ReadFile(file), &process.pid) || process.pid <= 0) {
    return absl::UnavailableError(absl::StrCat("QEMU's number cannot be read in ", file));
  }
  ASSIGN_OR_RETURN(process.pidfd, OpenPidfd(process.pid));
  return process;
}

uint64_t CpuNs(const QemuProcess& process) {
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(process.pid, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  // The number may be another process's by now; the pidfd is not.
  if (AwaitEnd(process, 0)) return 0;
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

bool AwaitEnd(const QemuProcess& process, int timeout_ms) {
  pollfd ended{process.pidfd.get(), POLLIN, 0};
  int result = 0;
  do {
    result = poll(&ended, 1, timeout_ms);
  } while (result < 0 && errno == EINTR);
  return result > 0;
}

absl::Status Kill(const QemuProcess& process) {
  if (syscall(SYS_pidfd_send_signal, process.pidfd.get(), SIGKILL, nullptr, 0) == 0 ||
      errno == ESRCH) {
    return absl::OkStatus();
  }
  return ErrnoStatus(absl::StrCat("killing QEMU ", process.pid));
}

absl::StatusOr<int> RemoveOrphans(const std::string& embedded_root) {
  int found = 0;
  const std::string files = embedded_root + "/lib/qemu/";
  for (const std::string& entry : Entries("/proc")) {
    pid_t pid = -1;
    if (!absl::SimpleAtoi(entry, &pid)) continue;
    const std::string arguments = CommandLineOf(entry);
    // Each domain's secret lies in a folder of the driver's, and the socket of one that is only
    // asked what it can do.
    const bool domain = IsDomainName(DomainOf(arguments)) &&
                        absl::StrContains(arguments, absl::StrCat("\"", files, "domain-"));
    const bool asked = absl::StrContains(arguments, absl::StrCat("unix:", files, "qmp-"));
    if (!domain && !asked) continue;
    RETURN_IF_ERROR(EndOrphan(pid));
    ++found;
  }
  for (const char* folder :
       {"/run/qemu", "/etc/qemu", "/log/qemu", "/lib/qemu", "/lib/qemu/channel/target"}) {
    for (const std::string& entry : Entries(embedded_root + folder)) {
      std::error_code ignored;
      if (IsOfOurs(entry)) fs::remove_all(absl::StrCat(embedded_root, folder, "/", entry), ignored);
    }
  }
  return found;
}

std::vector<QemuProcess> QemusOf(const std::string& domain) {
  std::vector<QemuProcess> found;
  for (const std::string& entry : Entries("/proc")) {
    QemuProcess process;
    if (!absl::SimpleAtoi(entry, &process.pid) || DomainOf(CommandLineOf(entry)) != domain) {
      continue;
    }
    absl::StatusOr<UniqueFd> pidfd = OpenPidfd(process.pid);
    if (!pidfd.ok()) continue;  // It is gone.
    process.pidfd = *std::move(pidfd);
    found.push_back(std::move(process));
  }
  return found;
}

absl::Status EndQemuOf(const std::string& domain) {
  for (const QemuProcess& process : QemusOf(domain)) RETURN_IF_ERROR(EndByForce(process));
  return absl::OkStatus();
}

void RemoveLog(const std::string& uri, const std::string& domain) {
  unlink(absl::StrCat(FoldersOf(uri).logs, "/", domain, ".log").c_str());
}

void RemoveLogs(const std::string& uri, const std::set<std::string>& others) {
  const std::string folder = FoldersOf(uri).logs;
  for (const std::string& entry : Entries(folder)) {
    // A log that was full has a number behind its name.
    const std::string domain = entry.substr(0, entry.find('.'));
    if (!IsDomainName(domain) || others.count(domain) != 0) continue;
    unlink(absl::StrCat(folder, "/", entry).c_str());
  }
}

std::vector<Reaped> ReapQemus() {
  std::vector<Reaped> reaped;
  const pid_t session = getsid(0);
  for (const std::string& thread : Entries("/proc/self/task")) {
    const std::string children = ReadFile(absl::StrCat("/proc/self/task/", thread, "/children"));
    for (const absl::string_view child : absl::StrSplit(children, ' ', absl::SkipEmpty())) {
      const ProcessStat stat = StatOf(child);
      // What libvirt waits for itself is either in our session or has not executed QEMU yet.
      if (stat.state != 'Z' || stat.session == session ||
          !absl::StartsWith(stat.name, "qemu-system")) {
        continue;
      }
      Reaped one;
      siginfo_t info{};
      rusage usage{};
      if (!absl::SimpleAtoi(child, &one.pid) ||
          // Not the library's waitid, which does not tell the resources used.
          syscall(SYS_waitid, P_PID, one.pid, &info, WEXITED | WNOHANG, &usage) != 0 ||
          info.si_pid == 0) {
        continue;
      }
      (info.si_code == CLD_EXITED ? one.exit_code : one.signal) = info.si_status;
      one.cpu_ns = Nanoseconds(usage.ru_utime) + Nanoseconds(usage.ru_stime);
      one.peak_rss_bytes = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
      reaped.push_back(one);
    }
  }
  return reaped;
}

}  // namespace hearth::libvirt
