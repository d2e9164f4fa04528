// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/vmm_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "wire/limits.h"

extern char** environ;

namespace hearth::vmm::testing {
namespace {

constexpr int kCallTimeoutMs = 60'000;
// Where the child finds its descriptors, as hearth-launcher places them.
constexpr int kControlFd = 3;
constexpr int kKvmFd = 4;

// Duplicates, so that none of the sources is one of the targets.
absl::StatusOr<UniqueFd> AwayFromTargets(int fd) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 10));
  if (!copy) return ErrnoStatus("F_DUPFD_CLOEXEC");
  return copy;
}

}  // namespace

absl::StatusOr<VmmProcess> VmmProcess::Spawn(const std::string& program, int log) {
  const UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm) return ErrnoStatus("/dev/kvm");
  ASSIGN_OR_RETURN(auto ends, wire::MakeSocketPair());
  ASSIGN_OR_RETURN(const UniqueFd control_source, AwayFromTargets(ends.second.get()));
  ASSIGN_OR_RETURN(const UniqueFd kvm_source, AwayFromTargets(kvm.get()));

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // First, for `log` may be one of the targets.
  if (log >= 0) posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&actions, control_source.get(), kControlFd);
  posix_spawn_file_actions_adddup2(&actions, kvm_source.get(), kKvmFd);
  std::string control = absl::StrCat("--control-fd=", kControlFd);
  std::string kvm_argument = absl::StrCat("--kvm-fd=", kKvmFd);
  std::string name = program;
  char* const arguments[] = {name.data(), control.data(), kvm_argument.data(), nullptr};
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("spawning ", program));
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  VmmProcess process(pid, std::move(pidfd), std::move(ends.first));
  ends.second.reset();

  v1::Frame hello;
  hello.mutable_hello()->set_min_version(wire::kVmmMinVersion);
  hello.mutable_hello()->set_max_version(wire::kVmmMaxVersion);
  hello.mutable_hello()->set_build("test");
  RETURN_IF_ERROR(process.socket_->BlockingSend(hello.SerializeAsString()));
  ASSIGN_OR_RETURN(const wire::FdFrame raw, process.socket_->BlockingReceive(kCallTimeoutMs));
  v1::Frame answer;
  if (!answer.ParseFromString(raw.payload) || !answer.has_hello()) {
    return absl::InternalError("the VMM did not begin with Hello");
  }
  return process;
}

VmmProcess::VmmProcess(pid_t pid, UniqueFd pidfd, UniqueFd socket)
    : pid_(pid), pidfd_(std::move(pidfd)), socket_(std::move(socket)) {}

VmmProcess::VmmProcess(VmmProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      socket_(std::move(other.socket_)),
      events_(std::move(other.events_)),
      next_id_(other.next_id_) {}

VmmProcess::~VmmProcess() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

absl::Status VmmProcess::ReceiveOne(int timeout_ms, std::optional<v1::Response>& response) {
  if (!socket_.has_value()) return absl::FailedPreconditionError("the control socket is closed");
  ASSIGN_OR_RETURN(wire::FdFrame raw, socket_->BlockingReceive(timeout_ms));
  v1::Frame frame;
  if (!frame.ParseFromString(raw.payload)) return absl::InternalError("not a frame");
  if (frame.has_event()) {
    events_.push_back({frame.event(), std::move(raw.fds)});
  } else if (frame.has_response()) {
    response = frame.response();
  } else {
    return absl::InternalError("the VMM sent neither a response nor an event");
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Response> VmmProcess::Call(v1::Request request, std::vector<UniqueFd> fds) {
  if (!socket_.has_value()) return absl::FailedPreconditionError("the control socket is closed");
  request.set_id(next_id_++);
  v1::Frame frame;
  *frame.mutable_request() = request;
  RETURN_IF_ERROR(socket_->BlockingSend(frame.SerializeAsString(), std::move(fds)));
  std::optional<v1::Response> response;
  while (!response.has_value()) {
    if (absl::Status status = ReceiveOne(kCallTimeoutMs, response); !status.ok()) {
      // By its number in vmm.proto: the lite runtime knows no names.
      return Annotate(status, absl::StrCat("request ", static_cast<int>(request.command_case())));
    }
  }
  if (response->id() != request.id()) return absl::InternalError("a response to something else");
  if (response->has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(response->error().code()),
                        response->error().message());
  }
  return *response;
}

absl::StatusOr<VmmProcess::Event> VmmProcess::NextEvent(int timeout_ms) {
  while (events_.empty()) {
    std::optional<v1::Response> response;
    RETURN_IF_ERROR(ReceiveOne(timeout_ms, response));
    if (response.has_value()) return absl::InternalError("a response that nobody asked for");
  }
  Event event = std::move(events_.front());
  events_.pop_front();
  return event;
}

absl::StatusOr<v1::Exited> VmmProcess::AwaitExited(int timeout_ms) {
  for (;;) {
    ASSIGN_OR_RETURN(const Event event, NextEvent(timeout_ms));
    if (event.event.has_exited()) return event.event.exited();
  }
}

absl::StatusOr<int> VmmProcess::Wait(int timeout_ms) {
  pollfd entry{pidfd_.get(), POLLIN, 0};
  if (poll(&entry, 1, timeout_ms) <= 0) {
    return absl::DeadlineExceededError("the VMM did not end in time");
  }
  int status = 0;
  if (waitpid(std::exchange(pid_, -1), &status, 0) < 0) return ErrnoStatus("waitpid");
  return status;
}

v1::Request BasicCreateRequest(uint32_t memory_mib) {
  v1::Request request;
  v1::CreateMachine& create = *request.mutable_create();
  create.set_memory_mib(memory_mib);
  create.set_vcpu_count(1);
  create.set_kernel_fd(0);
  create.mutable_console()->set_fd(1);
  return request;
}

}  // namespace hearth::vmm::testing
