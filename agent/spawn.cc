// SPDX-License-Identifier: Apache-2.0
#include "agent/spawn.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr int kStatusFd = 3;  // In the shim, after its descriptors are arranged.

void SendMessage(const ShimMessage& message, int fd_to_pass) {
  iovec data = {const_cast<ShimMessage*>(&message), sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (fd_to_pass >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* cmsg = CMSG_FIRSTHDR(&header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(cmsg), &fd_to_pass, sizeof(int));
  }
  sendmsg(kStatusFd, &header, MSG_NOSIGNAL);
}

[[noreturn]] void FailShim(SandboxStep step) {
  SendMessage({ShimMessage::kFailed, step, errno}, -1);
  _exit(1);
}

// stdio to 0, 1, 2, the status socket to 3, nothing else: neither the agent's connection nor the
// other ends of the pipes may live on here.
bool ArrangeDescriptors(const SpawnRequest& request, int status_fd) {
  int sources[4] = {request.stdio[0].get(), request.stdio[1].get(), request.stdio[2].get(),
                    status_fd};
  for (int& source : sources) {
    source = fcntl(source, F_DUPFD, 16);
    if (source < 0) return false;
  }
  for (int target = 0; target < 4; ++target) {
    if (dup2(sources[target], target) < 0) return false;
  }
  return syscall(SYS_close_range, kStatusFd + 1, ~0U, 0) == 0;
}

[[noreturn]] void RunProgram(const SpawnRequest& request, char** argv, char** envp, int report_fd) {
  close(kStatusFd);
  SandboxStep failed = DropPrivileges(request.sandbox);
  if (failed == SandboxStep::kNone && chdir(request.working_directory.c_str()) != 0) {
    failed = SandboxStep::kWorkingDirectory;
  }
  if (failed == SandboxStep::kNone) {
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    environ = envp;  // PATH, too, is the program's own.
    execvp(argv[0], argv);
    failed = SandboxStep::kExecute;
  }
  const int32_t report[2] = {static_cast<int32_t>(failed), errno};
  if (write(report_fd, report, sizeof(report)) < 0) _exit(126);
  _exit(127);
}

// Reaps whatever ends in the namespace until the program does, and returns its wait status.
int WaitForProgram(pid_t program) {
  while (true) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, 0);
    if (pid == program) return status;
    if (pid < 0 && errno == ECHILD) return 0;  // Cannot be: the program is our child.
  }
}

[[noreturn]] void RunShim(const SpawnRequest& request, char** argv, char** envp, int status_fd) {
  if (!ArrangeDescriptors(request, status_fd)) _exit(1);
  if (!EnterRoot(request.sandbox)) FailShim(SandboxStep::kMounts);
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) FailShim(SandboxStep::kDescriptors);
  const pid_t program = fork();
  if (program < 0) FailShim(SandboxStep::kFork);
  if (program == 0) RunProgram(request, argv, envp, report[1]);
  syscall(SYS_close_range, 0U, 2U, 0);
  close(report[1]);
  int32_t failure[2] = {};
  // The pipe closes when the program is executed.
  ssize_t got;
  do {
    got = read(report[0], failure, sizeof(failure));
  } while (got < 0 && errno == EINTR);
  close(report[0]);
  if (got == sizeof(failure)) {
    errno = failure[1];
    FailShim(static_cast<SandboxStep>(failure[0]));
  }
  // A pidfd of a child that has ended already is good too: it is not reaped yet.
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, program, 0U));
  SendMessage({ShimMessage::kStarted, SandboxStep::kNone, 0}, pidfd);
  if (pidfd >= 0) close(pidfd);
  const int status = WaitForProgram(program);
  SendMessage({ShimMessage::kExited, SandboxStep::kNone, status}, -1);
  _exit(0);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

absl::StatusOr<Spawned> Spawn(const SpawnRequest& request) {
  if (request.arguments.empty()) return absl::InvalidArgumentError("a process without arguments");
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    return ErrnoStatus("socketpair");
  }
  UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  if (fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl");
  std::vector<char*> argv = Pointers(request.arguments);
  std::vector<char*> envp = Pointers(request.environment);

  clone_args args = {};
  args.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_INTO_CGROUP;
  args.exit_signal = SIGCHLD;
  args.cgroup = static_cast<uint64_t>(request.cgroup_fd);
  const long pid = syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0) return ErrnoStatus("clone3");
  if (pid == 0) RunShim(request, argv.data(), envp.data(), theirs.get());
  return Spawned{static_cast<pid_t>(pid), std::move(ours)};
}

ShimMessage ReceiveShimMessage(int status_socket, UniqueFd* program_pidfd) {
  ShimMessage message;
  iovec data = {&message, sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t got;
  do {
    got = recvmsg(status_socket, &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  for (cmsghdr* cmsg = got > 0 ? CMSG_FIRSTHDR(&header) : nullptr; cmsg != nullptr;
       cmsg = CMSG_NXTHDR(&header, cmsg)) {
    int fd = -1;
    if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) continue;
    std::memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
    program_pidfd->reset(fd);
  }
  return got == sizeof(message) ? message : ShimMessage{};
}

}  // namespace hearth::agent
