// SPDX-License-Identifier: Apache-2.0
// KvmBackend with the real launcher and the real hearth-vmm, and guests of a few instructions.
#include "control-plane/backend/kvm/kvm_backend.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/node/launcher_fixture.h"
#include "vmm/testing/tiny_guest.h"

namespace hearth::control {
namespace {

using testing::LauncherProgram;
using testing::TemporaryFolder;

// A build with a sanitizer has no static VMM to put into an empty root; one may be lent.
std::string Vmm() {
  const char* const lent = getenv("HEARTH_STATIC_VMM");
  return lent != nullptr ? lent : HEARTH_VMM_BINARY;
}

bool CanRun() {
#ifdef HEARTH_SANITIZED
  if (getenv("HEARTH_STATIC_VMM") == nullptr) {
    std::printf("SKIPPED: KVM backend tests need a static hearth-vmm in HEARTH_STATIC_VMM\n");
    return false;
  }
#endif
  if (geteuid() == 0 && access("/dev/kvm", R_OK | W_OK) == 0) return true;
  std::printf("SKIPPED: KVM backend tests need root and /dev/kvm: %s\n", std::strerror(errno));
  return false;
}

struct World {
  explicit World(KvmBackendConfig config = {}) : launcher(Vmm(), {"--cgroup="}) {
    config.launcher_socket = launcher.socket();
    backend = *KvmBackend::Create(config);
  }
  absl::StatusOr<std::unique_ptr<Machine>> Create(const std::string& code, UniqueFd console = {},
                                                  uint32_t memory_mib = 16) {
    MachineSpec spec;
    spec.id = "test";
    spec.memory_mib = memory_mib;
    spec.kernel_path = folder.path() + "/kernel";
    std::ofstream(spec.kernel_path) << vmm::testing::KernelOf(code);
    spec.console = std::move(console);
    return backend->Create(std::move(spec));
  }
  TemporaryFolder folder;
  LauncherProgram launcher;
  std::unique_ptr<KvmBackend> backend;
};

MachineExit AwaitExit(Machine& machine) {
  absl::Notification ended;
  MachineExit exit;
  machine.OnExit([&](const MachineExit& told) {
    exit = told;
    ended.Notify();
  });
  ended.WaitForNotification();
  return exit;
}

TEST_CASE("kvm backend: a VMM of the previous version is driven, one older is refused") {
  if (!CanRun()) return;
  KvmBackendConfig config;
  config.vmm_versions = {wire::kVmmMaxVersion, wire::kVmmMaxVersion + 1};
  World next(config);
  auto machine = next.Create(vmm::testing::HelloCode("hello"));
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  CHECK(AwaitExit(**machine).reason == MachineExit::Reason::kGuestReset);
  config.vmm_versions = {wire::kVmmMaxVersion + 1, wire::kVmmMaxVersion + 2};
  World later(config);
  const absl::Status refused = later.Create(vmm::testing::HelloCode("hello")).status();
  INFO(refused);
  CHECK(absl::StrContains(refused.message(), "the VMM is too old"));
}

TEST_CASE("kvm backend: a guest runs, writes to its console and resets") {
  if (!CanRun()) return;
  World world;
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd reader(ends[0]);
  auto machine = world.Create(vmm::testing::HelloCode("hello"), UniqueFd(ends[1]));
  REQUIRE(machine.ok());
  CHECK_FALSE((*machine)->origin().waited);
  CHECK((*machine)->origin().ready > absl::ZeroDuration());
  const auto version = world.backend->VmmVersion();
  REQUIRE(version.ok());
  CHECK_FALSE(version->empty());
  CHECK((*machine)->origin().vmm_version == *version);
  REQUIRE((*machine)->Start().ok());
  const MachineExit exit = AwaitExit(**machine);
  CHECK(exit.reason == MachineExit::Reason::kGuestReset);
  char text[16] = {};
  CHECK(read(reader.get(), text, sizeof(text)) == 5);
  CHECK(std::string(text) == "hello");
  CHECK((*machine)->CpuTime().value() > absl::ZeroDuration());
  CHECK((*machine)->Start().code() == absl::StatusCode::kUnavailable);
  CHECK_FALSE((*machine)->AcceptAgent(absl::InfiniteFuture()).ok());
}

absl::Duration OwnCpu() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return absl::DurationFromTimespec(used);
}

TEST_CASE("kvm backend: a paused guest uses no processor, a resumed one does") {
  if (!CanRun()) return;
  World world;
  auto machine = world.Create(vmm::testing::CountingCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  const auto cpu = [&] { return (*machine)->CpuTime().value(); };
  const absl::Duration begin = cpu();
  while (cpu() < begin + absl::Milliseconds(10)) std::this_thread::yield();
  REQUIRE((*machine)->Pause().ok());
  // What the processor was given is accounted by the time Pause() answers, but for the main thread.
  const absl::Duration paused = cpu();
  const auto statistics = (*machine)->Statistics();
  REQUIRE(statistics.ok());
  CHECK(statistics->cpu >= paused);
  CHECK(statistics->resident_bytes > 0);
  // One that ran would have had as much meanwhile as we take here.
  const absl::Duration begun = OwnCpu();
  while (OwnCpu() < begun + absl::Milliseconds(200)) continue;
  CHECK(cpu() < paused + absl::Milliseconds(100));
  REQUIRE((*machine)->Resume().ok());
  while (cpu() < paused + absl::Milliseconds(20)) std::this_thread::yield();
  REQUIRE((*machine)->Stop(absl::InfinitePast()).ok());
  CHECK(AwaitExit(**machine).reason == MachineExit::Reason::kStopped);
}

TEST_CASE("kvm backend: what is alive is what the launcher runs and is somebody's machine") {
  if (!CanRun()) return;
  World world;
  // One that waits is nobody's.
  world.backend->SetWaiting(1);
  while (world.backend->waiting() < 1) std::this_thread::yield();
  const auto alive = [&] { return world.backend->ListAlive().value(); };
  CHECK(alive().empty());
  auto one = world.Create(vmm::testing::SpinningCode());
  REQUIRE(one.ok());
  CHECK(alive() == std::vector<std::string>{"test"});
  auto other = world.Create(vmm::testing::SpinningCode());
  REQUIRE(other.ok());
  CHECK(alive().size() == 2);
  (*one)->Kill();
  AwaitExit(**one);
  CHECK(alive().size() == 1);
  other->reset();
  CHECK(alive().empty());
  world.launcher.program().Signal(SIGKILL);
  absl::StatusOr<std::vector<std::string>> nobody = world.backend->ListAlive();
  while (nobody.ok()) nobody = world.backend->ListAlive();
  CHECK(nobody.status().code() == absl::StatusCode::kUnavailable);
}

TEST_CASE("kvm backend: a launcher of version 1 is spoken to, but cannot be asked what is alive") {
  TemporaryFolder folder;
  KvmBackendConfig config;
  config.launcher_socket = folder.path() + "/old.sock";
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, config.launcher_socket.c_str(), sizeof(address.sun_path) - 1);
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  absl::Notification done;
  std::thread old([&] {
    wire::FdSocket session(UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    launcher::v1::Frame hello;
    hello.mutable_hello()->set_min_version(1);
    hello.mutable_hello()->set_max_version(1);
    session.BlockingSend(hello.SerializeAsString()).IgnoreError();
    done.WaitForNotification();
  });
  const auto backend = KvmBackend::Create(config);
  REQUIRE(backend.ok());
  const absl::Status told = (*backend)->ListAlive().status();
  done.Notify();
  old.join();
  INFO(told);
  CHECK(told.code() == absl::StatusCode::kUnimplemented);
  CHECK(absl::StrContains(told.message(), "older"));
}

TEST_CASE("kvm backend: a destroyed machine leaves no process") {
  if (!CanRun()) return;
  World world;
  auto machine = world.Create(vmm::testing::SpinningCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  const pid_t launcher = world.launcher.program().pid();
  const std::string children = absl::StrCat("/proc/", launcher, "/task/", launcher, "/children");
  CHECK_FALSE(testing::ReadFile(children).empty());
  machine->reset();
  CHECK(testing::ReadFile(children).empty());
}

TEST_CASE("kvm backend: an orderly stop waits for the guest, and not longer than it was told") {
  if (!CanRun()) return;
  World world;
  auto machine = world.Create(vmm::testing::HaltCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  REQUIRE((*machine)->Stop(absl::Now() + absl::Milliseconds(50)).ok());
  CHECK(AwaitExit(**machine).reason == MachineExit::Reason::kStopped);
}

TEST_CASE("kvm backend: a kernel that is none, or is missing, is said") {
  if (!CanRun()) return;
  World world;
  MachineSpec spec;
  spec.memory_mib = 16;
  spec.kernel_path = "/etc/passwd";
  const absl::Status no_kernel = world.backend->Create(std::move(spec)).status();
  INFO(no_kernel);
  CHECK(no_kernel.code() == absl::StatusCode::kInvalidArgument);
  MachineSpec missing;
  missing.memory_mib = 16;
  missing.kernel_path = "/nowhere/vmlinux";
  CHECK(absl::StrContains(world.backend->Create(std::move(missing)).status().message(),
                          "/nowhere/vmlinux"));
  const absl::Status odd = world.Create(vmm::testing::HaltCode(), UniqueFd(), 3).status();
  INFO(odd);
  CHECK_FALSE(odd.ok());
}

TEST_CASE("kvm backend: a VMM that is killed is a lost machine") {
  if (!CanRun()) return;
  World world;
  auto machine = world.Create(vmm::testing::SpinningCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  const pid_t launcher = world.launcher.program().pid();
  const int pid = std::stoi(
      testing::ReadFile(absl::StrCat("/proc/", launcher, "/task/", launcher, "/children")));
  kill(pid, SIGKILL);
  const MachineExit exit = AwaitExit(**machine);
  CHECK(exit.reason == MachineExit::Reason::kLost);
  CHECK(absl::StrContains(exit.detail, "signal 9"));
}

TEST_CASE("kvm backend: when its launcher dies the machines end, and another launcher serves") {
  if (!CanRun()) return;
  World world;
  auto machine = world.Create(vmm::testing::SpinningCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  world.launcher.program().Signal(SIGKILL);
  const MachineExit exit = AwaitExit(**machine);
  CHECK(exit.reason == MachineExit::Reason::kLost);
  CHECK(absl::StrContains(exit.detail, "the launcher was lost"));
  machine->reset();

  const absl::Status refused = world.Create(vmm::testing::HaltCode()).status();
  CHECK(refused.code() == absl::StatusCode::kUnavailable);
  CHECK(absl::StrContains(refused.message(), "no hearth-launcher listens"));
  testing::Program again(HEARTH_LAUNCHER_BINARY, {"--listen=" + world.launcher.socket(),
                                                  "--vmm=" + Vmm(), "--allow-uid=0", "--cgroup="});
  // The back-off refuses for a while.
  absl::StatusOr<std::unique_ptr<Machine>> next = refused;
  while (!next.ok()) next = world.Create(vmm::testing::HaltCode());
  CHECK((*next)->Start().ok());
}

TEST_CASE("kvm backend: many machines at once, made and ended from many threads") {
  if (!CanRun()) return;
  World world;
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  const std::string code = vmm::testing::DoNothingCode();
  const std::string kernel = world.folder.path() + "/shared-kernel";
  std::ofstream(kernel) << vmm::testing::KernelOf(code);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        MachineSpec spec;
        spec.memory_mib = 16;
        spec.kernel_path = kernel;
        auto machine = world.backend->Create(std::move(spec));
        if (!machine.ok()) continue;
        if (!(*machine)->Start().ok()) continue;
        if ((i + round) % 2 == 0) (*machine)->Kill();
        AwaitExit(**machine);
        ++good;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(good == 40);
}

std::string ChildrenOf(const World& world) {
  const pid_t launcher = const_cast<World&>(world).launcher.program().pid();
  return testing::ReadFile(absl::StrCat("/proc/", launcher, "/task/", launcher, "/children"));
}

TEST_CASE("kvm backend: machines are made of VMMs that wait, and others take their place") {
  if (!CanRun()) return;
  World world;
  world.backend->SetWaiting(2);
  while (world.backend->waiting() < 2) std::this_thread::yield();
  const std::string waiting = ChildrenOf(world);
  auto machine = world.Create(vmm::testing::DoNothingCode());
  INFO(machine.status());
  REQUIRE(machine.ok());
  while (world.backend->waiting() < 2) std::this_thread::yield();
  // The one that had waited longest, which is the first child, has become the machine.
  CHECK(absl::StartsWith(ChildrenOf(world), waiting.substr(0, waiting.find(' '))));
  CHECK((*machine)->origin().waited);
  REQUIRE((*machine)->Start().ok());
  CHECK(AwaitExit(**machine).reason == MachineExit::Reason::kGuestReset);
  machine->reset();
  world.backend->SetWaiting(0);
  while (!ChildrenOf(world).empty()) std::this_thread::yield();
  CHECK(world.backend->waiting() == 0);
}

TEST_CASE("kvm backend: one that died while it waited is passed over") {
  if (!CanRun()) return;
  World world;
  world.backend->SetWaiting(1);
  while (world.backend->waiting() < 1) std::this_thread::yield();
  const std::string before = ChildrenOf(world);
  kill(std::stoi(before), SIGKILL);
  while (ChildrenOf(world) == before) std::this_thread::yield();
  auto machine = world.Create(vmm::testing::HaltCode());
  INFO(machine.status());
  REQUIRE(machine.ok());
  CHECK((*machine)->Start().ok());
}

TEST_CASE("kvm backend: VMMs that wait end with the backend") {
  if (!CanRun()) return;
  World world;
  world.backend->SetWaiting(3);
  while (world.backend->waiting() < 3) std::this_thread::yield();
  world.backend.reset();
  CHECK(ChildrenOf(world).empty());
}

// A saved machine's files, sealed as the snapshot store seals them.
struct Saved {
  Saved()
      : state(memfd_create("state", MFD_ALLOW_SEALING)),
        memory(memfd_create("memory", MFD_ALLOW_SEALING)) {}
  void Seal() {
    for (const UniqueFd* file : {&state, &memory}) {
      REQUIRE(fcntl(file->get(), F_ADD_SEALS,
                    F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
    }
  }
  uint32_t Counter() const {
    uint32_t counter = 0;
    REQUIRE(pread(memory.get(), &counter, sizeof(counter), vmm::testing::kCounterAddress) ==
            sizeof(counter));
    return counter;
  }
  UniqueFd state;
  UniqueFd memory;
};

uint32_t SaveAndCount(Machine& machine) {
  const Saved saved;
  REQUIRE(machine.Pause().ok());
  const absl::Status status = machine.Save(saved.state.get(), saved.memory.get());
  INFO(status);
  REQUIRE(status.ok());
  REQUIRE(machine.Resume().ok());
  return saved.Counter();
}

TEST_CASE("kvm backend: a saved machine goes on where it was, in as many clones as are wanted") {
  if (!CanRun()) return;
  World world;
  const bool waiting = GENERATE(false, true);
  if (waiting) world.backend->SetWaiting(2);
  auto machine = world.Create(vmm::testing::CountingCode());
  REQUIRE(machine.ok());
  REQUIRE((*machine)->Start().ok());
  while (SaveAndCount(**machine) == 0) {
  }
  Saved saved;
  REQUIRE((*machine)->Pause().ok());
  REQUIRE((*machine)->Save(saved.state.get(), saved.memory.get()).ok());
  machine->reset();
  saved.Seal();
  const uint32_t at = saved.Counter();
  std::vector<std::unique_ptr<Machine>> clones;
  for (int i = 0; i < 3; ++i) {
    if (waiting) {
      while (world.backend->waiting() < 2) std::this_thread::yield();
    }
    RestoreSpec spec;
    spec.id = "clone";
    spec.memory_mib = 16;
    spec.state = saved.state.get();
    spec.memory = saved.memory.get();
    if (i == 1) spec.working_set = {{vmm::testing::kCounterAddress / 4096, 1, true}};
    auto clone = world.backend->Restore(std::move(spec));
    INFO(clone.status());
    REQUIRE(clone.ok());
    clones.push_back(*std::move(clone));
  }
  for (const auto& clone : clones) {
    uint32_t counter = 0;
    while (counter <= at) counter = SaveAndCount(*clone);
    const auto pages = clone->GetWorkingSet();
    INFO(pages.status());
    REQUIRE(pages.ok());
    bool written = false;
    for (const PageRun& run : *pages) {
      const uint32_t page = vmm::testing::kCounterAddress / 4096;
      written |= run.written && run.first_page <= page && page < run.first_page + run.page_count;
    }
    CHECK(written);
  }
  CHECK(saved.Counter() == at);
}

TEST_CASE("kvm backend: what cannot be restored is refused, and leaves no process") {
  if (!CanRun()) return;
  World world;
  Saved saved;
  REQUIRE(write(saved.state.get(), "nonsense", 8) == 8);
  REQUIRE(ftruncate(saved.memory.get(), 16 << 20) == 0);
  saved.Seal();
  RestoreSpec spec;
  spec.memory_mib = 16;
  spec.state = saved.state.get();
  spec.memory = saved.memory.get();
  const absl::Status refused = world.backend->Restore(std::move(spec)).status();
  INFO(refused);
  CHECK((refused.code() == absl::StatusCode::kInvalidArgument ||
         refused.code() == absl::StatusCode::kFailedPrecondition));
  CHECK(ChildrenOf(world).empty());
}

}  // namespace
}  // namespace hearth::control
