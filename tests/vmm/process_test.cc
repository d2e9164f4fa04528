// SPDX-License-Identifier: Apache-2.0
// hearth-vmm as a process, driven over its control socket with tiny guests.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/vmm/kvm_guard.h"
#include "vmm/testing/busy_guest.h"
#include "vmm/testing/snapshot_calls.h"
#include "vmm/testing/tiny_guest.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::vmm::testing {
namespace {

constexpr int kPatienceMs = 60'000;

struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    read_end = UniqueFd(ends[0]);
    write_end = UniqueFd(ends[1]);
  }
  // Everything until the writers are gone.
  std::string Drain() {
    write_end.reset();
    std::string text;
    char buffer[4096];
    ssize_t count;
    while ((count = read(read_end.get(), buffer, sizeof(buffer))) > 0) {
      text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }
  UniqueFd read_end, write_end;
};

VmmProcess Spawn() {
  auto process = VmmProcess::Spawn(HEARTH_VMM_BINARY);
  INFO(process.status().message());
  REQUIRE(process.ok());
  return *std::move(process);
}

std::vector<UniqueFd> Fds(UniqueFd first, UniqueFd second = UniqueFd()) {
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(first));
  if (second) fds.push_back(std::move(second));
  return fds;
}

v1::Request Command(void (*fill)(v1::Request&)) {
  v1::Request request;
  fill(request);
  return request;
}
v1::Request Start() {
  return Command([](v1::Request& r) { r.mutable_start(); });
}
v1::Request Pause() {
  return Command([](v1::Request& r) { r.mutable_pause(); });
}
v1::Request Resume() {
  return Command([](v1::Request& r) { r.mutable_resume(); });
}
v1::Request Statistics() {
  return Command([](v1::Request& r) { r.mutable_get_statistics(); });
}
v1::Request Stop(bool forced, uint32_t timeout_ms = 0) {
  v1::Request request;
  request.mutable_stop()->set_forced(forced);
  request.mutable_stop()->set_timeout_ms(timeout_ms);
  return request;
}

void RequireOk(const absl::Status& status) {
  INFO(status.message());
  REQUIRE(status.ok());
}

// A machine that runs `code`, with its console.
void Create(VmmProcess& process, std::string code, Pipe& console) {
  RequireOk(process
                .Call(BasicCreateRequest(4), Fds(MemoryFile(KernelOf(std::move(code))),
                                                 UniqueFd(dup(console.write_end.get()))))
                .status());
}

std::string Refusal(VmmProcess& process, v1::Request request, std::vector<UniqueFd> fds) {
  const auto response = process.Call(std::move(request), std::move(fds));
  REQUIRE(!response.ok());
  return absl::StrCat(absl::StatusCodeToString(response.status().code()), ": ",
                      response.status().message());
}

TEST_CASE("process: a guest says hello on the console and resets the machine") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  Pipe console;
  Create(process, HelloCode("hello from a tiny guest\n"), console);
  RequireOk(process.Call(Start()).status());
  const auto exited = process.AwaitExited(kPatienceMs);
  RequireOk(exited.status());
  CHECK(exited->reason() == v1::Exited::REASON_GUEST_RESET);
  const auto status = process.Wait(kPatienceMs);
  RequireOk(status.status());
  CHECK(WIFEXITED(*status));
  CHECK(WEXITSTATUS(*status) == 0);
  CHECK(console.Drain() == "hello from a tiny guest\n");
}

TEST_CASE("process: a triple fault is a guest fault") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  Pipe console;
  Create(process, TripleFaultCode(), console);
  RequireOk(process.Call(Start()).status());
  const auto exited = process.AwaitExited(kPatienceMs);
  RequireOk(exited.status());
  CHECK(exited->reason() == v1::Exited::REASON_GUEST_FAULT);
  CHECK(exited->detail() == "triple fault");
}

TEST_CASE("process: a halted or spinning guest is paused, resumed and stopped") {
  REQUIRE_KVM();
  for (const std::string& code : {HaltCode(), SpinningCode(), CountingCode()}) {
    VmmProcess process = Spawn();
    Pipe console;
    Create(process, code, console);
    RequireOk(process.Call(Start()).status());
    for (int i = 0; i < 20; ++i) {
      RequireOk(process.Call(Pause()).status());
      RequireOk(process.Call(Resume()).status());
    }
    RequireOk(process.Call(Stop(true)).status());
    const auto exited = process.AwaitExited(kPatienceMs);
    RequireOk(exited.status());
    CHECK(exited->reason() == v1::Exited::REASON_STOPPED);
    RequireOk(process.Wait(kPatienceMs).status());
  }
}

TEST_CASE("process: an orderly stop waits for the guest until its deadline") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  Pipe console;
  Create(process, SpinningCode(), console);
  RequireOk(process.Call(Start()).status());
  RequireOk(process.Call(Stop(false, 50)).status());
  CHECK_THAT(Refusal(process, Pause(), {}), Catch::Contains("FAILED_PRECONDITION"));
  const auto exited = process.AwaitExited(kPatienceMs);
  RequireOk(exited.status());
  CHECK(exited->reason() == v1::Exited::REASON_STOPPED);
  CHECK_THAT(exited->detail(), Catch::Contains("in time"));
}

TEST_CASE("process: the end of the control socket ends the process in every state") {
  REQUIRE_KVM();
  for (int stage = 0; stage < 4; ++stage) {
    VmmProcess process = Spawn();
    Pipe console;
    if (stage > 0) Create(process, SpinningCode(), console);
    if (stage > 1) RequireOk(process.Call(Start()).status());
    if (stage > 2) RequireOk(process.Call(Pause()).status());
    process.CloseControl();
    const auto status = process.Wait(kPatienceMs);
    RequireOk(status.status());
    CHECK(WIFEXITED(*status));
    CHECK(WEXITSTATUS(*status) == 0);
  }
}

TEST_CASE("process: requests in the wrong state are refused and change nothing") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  for (const v1::Request& request : {Start(), Pause(), Resume(), Stop(true), Statistics()}) {
    CHECK_THAT(Refusal(process, request, {}), Catch::Contains("send CreateMachine first"));
  }
  Pipe console;
  Create(process, SpinningCode(), console);
  CHECK_THAT(Refusal(process, BasicCreateRequest(4), {}), Catch::Contains("exists already"));
  CHECK_THAT(Refusal(process, Pause(), {}), Catch::Contains("machine is created"));
  CHECK_THAT(Refusal(process, Resume(), {}), Catch::Contains("machine is created"));
  RequireOk(process.Call(Start()).status());
  CHECK_THAT(Refusal(process, Start(), {}), Catch::Contains("machine is running"));
  CHECK_THAT(Refusal(process, Resume(), {}), Catch::Contains("machine is running"));
  RequireOk(process.Call(Pause()).status());
  CHECK_THAT(Refusal(process, Pause(), {}), Catch::Contains("machine is paused"));
  v1::Request connect;
  connect.mutable_connect_vsock()->set_port(5);
  CHECK_THAT(Refusal(process, connect, {}), Catch::Contains("its frame carries 0"));
  CHECK_THAT(Refusal(process, connect, Fds(MemoryFile(""))), Catch::Contains("no vsock device"));
  CHECK_THAT(Refusal(process, v1::Request(), {}), Catch::Contains("UNIMPLEMENTED"));
}

TEST_CASE("process: statistics count exits and CPU time, and no exit happens while paused") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  Pipe console;
  Create(process, CountingCode(), console);
  RequireOk(process.Call(Start()).status());
  // Its first write to a port without a device shows that the guest runs.
  uint64_t seen = 0;
  while (seen == 0) seen = process.Call(Statistics())->statistics().guest_errors();
  RequireOk(process.Call(Pause()).status());
  const auto first = process.Call(Statistics());
  const auto second = process.Call(Statistics());
  RequireOk(first.status());
  RequireOk(second.status());
  CHECK(first->statistics().exits() > 0);
  CHECK(first->statistics().vcpu_cpu_ns() > 0);
  CHECK(first->statistics().process_cpu_ns() >= first->statistics().vcpu_cpu_ns());
  CHECK(first->statistics().exits() == second->statistics().exits());
  // The thread's last steps into its wait may still be counted after the pause was answered.
  CHECK(first->statistics().vcpu_cpu_ns() <= second->statistics().vcpu_cpu_ns());
}

TEST_CASE(
    "process: a request for an impossible machine says what is wrong, then a good one works") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  const auto refusal = [&](void (*change)(v1::CreateMachine&)) {
    v1::Request request = BasicCreateRequest(4);
    change(*request.mutable_create());
    Pipe console;
    return Refusal(process, request,
                   Fds(MemoryFile(KernelOf(HaltCode())), UniqueFd(dup(console.write_end.get()))));
  };
  using C = v1::CreateMachine;
  CHECK_THAT(refusal([](C& c) { c.set_memory_mib(0); }), Catch::Contains("memory_mib is 0"));
  CHECK_THAT(refusal([](C& c) { c.set_memory_mib(127); }), Catch::Contains("multiple of 2"));
  CHECK_THAT(refusal([](C& c) { c.set_memory_mib(1u << 31); }), Catch::Contains("65536"));
  CHECK_THAT(refusal([](C& c) { c.set_vcpu_count(0); }), Catch::Contains("vcpu_count is 0"));
  CHECK_THAT(refusal([](C& c) { c.set_vcpu_count(9); }), Catch::Contains("offers 1 to 8"));
  CHECK_THAT(refusal([](C& c) { c.set_kernel_fd(2); }), Catch::Contains("frame carries 2"));
  CHECK_THAT(refusal([](C& c) { c.set_kernel_fd(1); }), Catch::Contains("another field names"));
  CHECK_THAT(refusal([](C& c) { c.mutable_vsock()->set_guest_cid(2); }),
             Catch::Contains("guest_cid is 2"));
  CHECK_THAT(refusal([](C& c) { c.mutable_vsock()->set_guest_cid(~0u); }),
             Catch::Contains("guest_cid"));
  CHECK_THAT(refusal([](C& c) {
               c.mutable_vsock()->set_guest_cid(3);
               for (uint32_t i = 0; i < 17; ++i) c.mutable_vsock()->add_guest_ports(i);
             }),
             Catch::Contains("guest_ports has 17"));
  CHECK_THAT(refusal([](C& c) {
               for (int i = 0; i < 9; ++i) c.add_disks();
             }),
             Catch::Contains("disks has 9"));
  CHECK_THAT(refusal([](C& c) { c.add_disks()->set_serial(std::string(21, 's')); }),
             Catch::Contains("disks[0].serial"));
  Pipe console;
  Create(process, HelloCode("still here"), console);
  RequireOk(process.Call(Start()).status());
  RequireOk(process.AwaitExited(kPatienceMs).status());
}

TEST_CASE("process: a kernel that is no kernel, a bad disk and a long command line are refused") {
  REQUIRE_KVM();
  const auto refusal = [](UniqueFd kernel, void (*change)(v1::CreateMachine&)) {
    VmmProcess process = Spawn();
    v1::Request request = BasicCreateRequest(4);
    change(*request.mutable_create());
    Pipe console;
    return Refusal(process, request,
                   Fds(std::move(kernel), UniqueFd(dup(console.write_end.get()))));
  };
  using C = v1::CreateMachine;
  CHECK_THAT(refusal(MemoryFile("#!/bin/sh\n"), [](C&) {}),
             Catch::Contains("INVALID_ARGUMENT: the kernel cannot be booted"));
  CHECK_THAT(refusal(MemoryFile(KernelOf(HaltCode()).substr(0, 190)), [](C&) {}),
             Catch::Contains("truncated"));
  CHECK_THAT(refusal(MemoryFile(KernelOf(HaltCode())),
                     [](C& c) { c.set_command_line(std::string(2048, 'a')); }),
             Catch::Contains("command line"));
  CHECK_THAT(refusal(MemoryFile(KernelOf(HaltCode())),
                     [](C& c) {
                       c.clear_console();
                       c.add_disks()->set_fd(1);  // The console's pipe.
                     }),
             Catch::Contains("INVALID_ARGUMENT"));
}

// A build with a sanitizer has no filter to look at (docs/testing.md).
#ifndef HEARTH_SANITIZED
TEST_CASE("process: every thread is in a seccomp filter before the guest starts") {
  REQUIRE_KVM();
  VmmProcess process = Spawn();
  Pipe console;
  Create(process, HaltCode(), console);
  size_t threads = 0;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process.pid(), "/task"))) {
    std::ifstream file(task.path() / "status");
    const std::string status{std::istreambuf_iterator<char>(file), {}};
    CHECK_THAT(status, Catch::Contains("Seccomp:\t2") && Catch::Contains("NoNewPrivs:\t1"));
    ++threads;
  }
  CHECK(threads == 2);
}
#endif

TEST_CASE("process: a machine is saved, restored in a fresh process and saved again") {
  REQUIRE_KVM();
  VmmProcess original = Spawn();
  Pipe console;
  v1::Request create = BasicCreateRequest(4);
  create.mutable_create()->set_vcpu_count(2);
  create.mutable_create()->set_entropy(true);
  RequireOk(original
                .Call(create,
                      Fds(MemoryFile(KernelOf(BusyCode())), UniqueFd(dup(console.write_end.get()))))
                .status());
  RequireOk(original.Call(Start()).status());
  while (original.Call(Statistics())->statistics().guest_errors() < 10) {
  }
  RequireOk(original.Call(Pause()).status());
  auto saved = SaveMachine(original);
  RequireOk(saved.status());
  CHECK(saved->sizes.memory_bytes() == 4 << 20);
  CHECK(saved->sizes.data_pages() > 2);
  CHECK(saved->sizes.data_pages() < 100);
  RequireOk(original.Call(Resume()).status());

  for (int generation = 0; generation < 3; ++generation) {
    VmmProcess copy = Spawn();
    PreparedRequest restore = MakeRestoreRequest(*saved);
    restore.request.mutable_restore()->set_resume(generation != 1);
    RequireOk(copy.Call(std::move(restore.request), std::move(restore.fds)).status());
    if (generation == 1) RequireOk(copy.Call(Resume()).status());
    CHECK_THAT(Refusal(copy, Start(), {}), Catch::Contains("machine is running"));
    // It goes on, and its jail holds.
    while (copy.Call(Statistics())->statistics().guest_errors() < 10) {
    }
    CHECK(copy.Call(Statistics())->statistics().minor_faults() > 0);
    const auto set = FetchWorkingSet(copy);
    RequireOk(set.status());
    CHECK(set->runs_size() > 0);
    RequireOk(copy.Call(Pause()).status());
    saved = SaveMachine(copy);
    RequireOk(saved.status());
  }
}

TEST_CASE("process: a machine that cannot be restored is refused, and then the process is spent") {
  REQUIRE_KVM();
  VmmProcess original = Spawn();
  Pipe console;
  Create(original, SpinningCode(), console);
  CHECK_THAT(Refusal(original, Command([](v1::Request& r) { r.mutable_get_working_set(); }),
                     Fds(MemoryFile(""))),
             Catch::Contains("only a restored machine"));
  RequireOk(original.Call(Start()).status());
  RequireOk(original.Call(Pause()).status());
  const auto saved = SaveMachine(original);
  RequireOk(saved.status());
  const auto refusal = [](VmmProcess& process, UniqueFd state, UniqueFd memory) {
    v1::Request request;
    request.mutable_restore()->set_memory_fd(1);
    return Refusal(process, request, Fds(std::move(state), std::move(memory)));
  };
  const auto file = [](const UniqueFd& fd) { return UniqueFd(dup(fd.get())); };
  VmmProcess process = Spawn();
  CHECK_THAT(refusal(process, MemoryFile("no state"), file(saved->memory)),
             Catch::Contains("INVALID_ARGUMENT"));
  CHECK_THAT(refusal(process, MemoryFile(std::string(1 << 21, 'x')), file(saved->memory)),
             Catch::Contains("the limit is 1048576"));
  CHECK_THAT(refusal(process, UniqueFd(dup(console.read_end.get())), file(saved->memory)),
             Catch::Contains("no file"));
  v1::Request many;
  many.mutable_restore()->set_memory_fd(1);
  while (many.restore().working_set().runs_size() < 4097) {
    many.mutable_restore()->mutable_working_set()->add_runs();
  }
  CHECK_THAT(Refusal(process, many, Fds(file(saved->state), file(saved->memory))),
             Catch::Contains("4097 runs"));
  CHECK_THAT(refusal(process, file(saved->state), MemoryFile("")),
             Catch::Contains("FAILED_PRECONDITION") && Catch::Contains("not sealed"));
  CHECK_THAT(refusal(process, file(saved->state), file(saved->memory)),
             Catch::Contains("spawn a new VMM"));
  VmmProcess other = Spawn();
  v1::Request disk;
  disk.mutable_restore()->set_memory_fd(1);
  disk.mutable_restore()->add_disks()->set_fd(2);
  std::vector<UniqueFd> fds = Fds(file(saved->state), file(saved->memory));
  fds.push_back(MemoryFile(std::string(4096, 'd')));
  CHECK_THAT(Refusal(other, disk, std::move(fds)), Catch::Contains("FAILED_PRECONDITION"));
}

TEST_CASE("process: broken frames and versions end the session with an error") {
  REQUIRE_KVM();
  const auto status_after = [](const std::string& bytes) {
    VmmProcess process = Spawn();
    REQUIRE(write(process.socket().fd(), bytes.data(), bytes.size()) ==
            static_cast<ssize_t>(bytes.size()));
    const auto status = process.Wait(kPatienceMs);
    RequireOk(status.status());
    REQUIRE(WIFEXITED(*status));
    return WEXITSTATUS(*status);
  };
  CHECK(status_after(std::string("\xff\xff\xff\xff", 4)) == 1);
  CHECK(status_after(std::string("\x03\0\0\0\xff\xff\xff", 7)) == 1);
  CHECK(status_after(std::string("\0\0\0\0", 4)) == 1);
}

}  // namespace
}  // namespace hearth::vmm::testing
