// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/run_machine.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <optional>

#include "vmm/base/token_bucket.h"
#include "vmm/testing/tiny_guest.h"

namespace hearth::vmm::testing {
namespace {

absl::StatusOr<UniqueFd> Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(path);
  return fd;
}

double MsSince(uint64_t begin_ns) { return static_cast<double>(MonotonicNs() - begin_ns) / 1e6; }

absl::Status Command(VmmProcess& process, void (*fill)(v1::Request&)) {
  v1::Request request;
  fill(request);
  return process.Call(std::move(request)).status();
}

absl::Status StopForced(VmmProcess& process, uint32_t timeout_ms) {
  RETURN_IF_ERROR(Command(process, [](v1::Request& r) { r.mutable_stop()->set_forced(true); }));
  RETURN_IF_ERROR(process.AwaitExited(static_cast<int>(timeout_ms)).status());
  return process.Wait(static_cast<int>(timeout_ms)).status();
}

// Until the VMM has done all that it does ahead of a request: its thread for vCPU 0 is there, and
// the main one sleeps. Only the kernel knows, so it is asked now and then.
absl::Status AwaitWaiting(pid_t pid) {
  for (int i = 0; i < 10'000; ++i) {
    std::FILE* file = std::fopen(absl::StrCat("/proc/", pid, "/stat").c_str(), "re");
    if (file == nullptr) return ErrnoStatus("/proc/PID/stat");
    char state = '?';
    long threads = 0;
    // proc(5): the 3rd and the 20th field.
    const int fields = std::fscanf(
        file, "%*d %*s %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld",
        &state, &threads);
    std::fclose(file);
    if (fields == 2 && state == 'S' && threads == 2) return absl::OkStatus();
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
  return absl::DeadlineExceededError("the VMM is never idle");
}

// Disks and vsock, for CreateMachine and RestoreMachine alike.
template <typename Machine>
absl::Status AddDevices(const RunArguments& arguments, PreparedRequest& request, Machine& machine) {
  for (const std::string& path : arguments.disks) {
    ASSIGN_OR_RETURN(UniqueFd file, Open(path));
    v1::Disk& disk = *machine.add_disks();
    disk.set_fd(request.Add(std::move(file)));
    disk.set_read_only(true);
  }
  if (arguments.guest_cid != 0) machine.mutable_vsock()->set_guest_cid(arguments.guest_cid);
  return absl::OkStatus();
}

absl::StatusOr<SavedMachineFiles> BootAndSave(const RunArguments& arguments) {
  ASSIGN_OR_RETURN(ConsoleReader console, ConsoleReader::Create());
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(arguments.vmm));
  RETURN_IF_ERROR(CreateMachine(process, arguments, console.writer()));
  console.CloseWriter();
  RETURN_IF_ERROR(Command(process, [](v1::Request& r) { r.mutable_start(); }));
  RETURN_IF_ERROR(console.Await(arguments.snapshot_after, arguments.timeout_ms));
  RETURN_IF_ERROR(Command(process, [](v1::Request& r) { r.mutable_pause(); }));
  const uint64_t begin_ns = MonotonicNs();
  ASSIGN_OR_RETURN(SavedMachineFiles files, SaveMachine(process));
  std::fprintf(stderr,
               "hearth-vmm-run: saved in %.1f ms: state %llu bytes, memory %llu bytes, %llu pages "
               "of data\n",
               MsSince(begin_ns), static_cast<unsigned long long>(files.sizes.state_bytes()),
               static_cast<unsigned long long>(files.sizes.memory_bytes()),
               static_cast<unsigned long long>(files.sizes.data_pages()));
  RETURN_IF_ERROR(StopForced(process, arguments.timeout_ms));
  return files;
}

absl::Status RestoreOnce(const RunArguments& arguments, const SavedMachineFiles& files,
                         std::optional<v1::WorkingSet>& working_set) {
  ASSIGN_OR_RETURN(ConsoleReader console, ConsoleReader::Create());
  PreparedRequest restore = MakeRestoreRequest(files);
  v1::RestoreMachine& body = *restore.request.mutable_restore();
  body.mutable_console()->set_fd(restore.Add(UniqueFd(dup(console.writer()))));
  console.CloseWriter();
  RETURN_IF_ERROR(AddDevices(arguments, restore, body));
  if (working_set.has_value()) *body.mutable_working_set() = *working_set;
  body.set_resume(true);

  uint64_t begin_ns = MonotonicNs();
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(arguments.vmm));
  const double spawned_ms = MsSince(begin_ns);
  if (arguments.waiting) {
    RETURN_IF_ERROR(AwaitWaiting(process.pid()));
    begin_ns = MonotonicNs();
  }
  RETURN_IF_ERROR(process.Call(std::move(restore.request), std::move(restore.fds)).status());
  const double restored_ms = MsSince(begin_ns);
  RETURN_IF_ERROR(console.Await("", arguments.timeout_ms));
  const double byte_ms = MsSince(begin_ns);
  v1::Request get;
  get.mutable_get_statistics();
  ASSIGN_OR_RETURN(const v1::Response statistics, process.Call(std::move(get)));
  std::fprintf(stderr,
               "hearth-vmm-run: %s, %d runs populated: spawned %.3f, restored %.3f, first byte "
               "%.3f ms; %llu exits, %llu faults\n",
               arguments.waiting ? "waiting process" : "fresh process",
               working_set.has_value() ? working_set->runs_size() : 0, spawned_ms, restored_ms,
               byte_ms, static_cast<unsigned long long>(statistics.statistics().exits()),
               static_cast<unsigned long long>(statistics.statistics().minor_faults()));
  if (!working_set.has_value()) {
    ASSIGN_OR_RETURN(working_set, FetchWorkingSet(process));
    uint64_t pages[2] = {0, 0};
    for (const v1::PageRun& run : working_set->runs()) pages[run.written()] += run.page_count();
    std::fprintf(stderr, "hearth-vmm-run: working set: %llu pages read, %llu written\n",
                 static_cast<unsigned long long>(pages[0]),
                 static_cast<unsigned long long>(pages[1]));
  }
  if (!arguments.until.empty()) {
    RETURN_IF_ERROR(console.Await(arguments.until, arguments.timeout_ms));
    return StopForced(process, arguments.timeout_ms);
  }
  const absl::Status end = console.Await(std::string(1, '\0'), arguments.timeout_ms);
  if (!absl::IsOutOfRange(end)) return end;
  ASSIGN_OR_RETURN(const v1::Exited exited,
                   process.AwaitExited(static_cast<int>(arguments.timeout_ms)));
  if (exited.reason() != v1::Exited::REASON_GUEST_RESET) {
    return absl::AbortedError(exited.detail());
  }
  return process.Wait(static_cast<int>(arguments.timeout_ms)).status();
}

}  // namespace

absl::StatusOr<ConsoleReader> ConsoleReader::Create() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  return ConsoleReader(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

absl::Status ConsoleReader::Await(const std::string& text, uint32_t timeout_ms) {
  const uint64_t deadline_ns = MonotonicNs() + uint64_t{timeout_ms} * 1'000'000;
  while (text.empty() ? seen_.empty() : seen_.find(text) == std::string::npos) {
    const uint64_t now_ns = MonotonicNs();
    pollfd entry{read_end_.get(), POLLIN, 0};
    const int left_ms =
        now_ns >= deadline_ns ? 0 : static_cast<int>((deadline_ns - now_ns) / 1'000'000 + 1);
    if (poll(&entry, 1, left_ms) <= 0) {
      return absl::DeadlineExceededError(absl::StrCat("the console never showed: ", text));
    }
    char buffer[4096];
    const ssize_t count = read(read_end_.get(), buffer, sizeof(buffer));
    if (count <= 0) return absl::OutOfRangeError("the console ended");
    seen_.append(buffer, static_cast<size_t>(count));
    std::fwrite(buffer, 1, static_cast<size_t>(count), stdout);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status CreateMachine(VmmProcess& process, const RunArguments& arguments, int console) {
  PreparedRequest request;
  v1::CreateMachine& create = *request.request.mutable_create();
  create.set_memory_mib(arguments.memory_mib);
  create.set_vcpu_count(arguments.vcpus);
  create.set_command_line(arguments.command_line);
  create.set_entropy(arguments.entropy);
  if (arguments.do_nothing) {
    create.set_kernel_fd(request.Add(MemoryFile(KernelOf(DoNothingCode()))));
  } else {
    ASSIGN_OR_RETURN(UniqueFd kernel, Open(arguments.kernel));
    create.set_kernel_fd(request.Add(std::move(kernel)));
  }
  create.mutable_console()->set_fd(request.Add(UniqueFd(dup(console))));
  if (!arguments.initrd.empty()) {
    ASSIGN_OR_RETURN(UniqueFd initrd, Open(arguments.initrd));
    create.set_has_initrd(true);
    create.set_initrd_fd(request.Add(std::move(initrd)));
  }
  RETURN_IF_ERROR(AddDevices(arguments, request, create));
  return process.Call(std::move(request.request), std::move(request.fds)).status();
}

absl::Status RunSnapshot(const RunArguments& arguments) {
  ASSIGN_OR_RETURN(const SavedMachineFiles files, BootAndSave(arguments));
  std::optional<v1::WorkingSet> working_set;
  for (uint32_t i = 0; i < arguments.repeat; ++i) {
    RETURN_IF_ERROR(RestoreOnce(arguments, files, working_set));
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm::testing
