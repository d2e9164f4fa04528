// SPDX-License-Identifier: Apache-2.0
// A launcher whose machines run in processes of others, as hearth-libvirt's do in QEMU's: its
// session is lost while it lives on.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "control-plane/backend/kvm/kvm_backend.h"
#include "hearth/launcher/v1/launcher.pb.h"
#include "hearth/vmm/v1/vmm.pb.h"
#include "wire/fd_socket.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(30);

struct Folder {
  Folder() {
    char name[] = "/tmp/hearth-lost-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

UniqueFd PidfdOf(pid_t pid) {
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  REQUIRE(pidfd);
  return pidfd;
}

// Stands for QEMU: sleeps until it is killed.
class Guest {
 public:
  Guest() : pid_(fork()) {
    if (pid_ == 0) {
      while (true) pause();
    }
    REQUIRE(pid_ > 0);
  }
  ~Guest() { End(); }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  void End() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

template <typename Frame>
Frame Receive(wire::FdSocket& socket, std::vector<UniqueFd>* fds = nullptr) {
  auto received = socket.BlockingReceive();
  REQUIRE(received.ok());
  Frame frame;
  REQUIRE(frame.ParseFromString(received->payload));
  if (fds != nullptr) *fds = std::move(received->fds);
  return frame;
}

// A session of it; the caller takes its steps.
class Launcher {
 public:
  Launcher() {
    listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path().c_str(), sizeof(address.sun_path) - 1);
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    REQUIRE(listen(listener_.get(), 1) == 0);
  }
  std::string path() const { return folder_.path + "/launcher.sock"; }

  // Greets a hearthd and spawns what it asks for: a session in this very process, or so it says.
  void Spawn(pid_t pid = getpid()) {
    session_.emplace(UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    launcher::v1::Frame hello;
    hello.mutable_hello()->set_min_version(wire::kLauncherMinVersion);
    hello.mutable_hello()->set_max_version(wire::kLauncherMaxVersion);
    REQUIRE(session_->BlockingSend(hello.SerializeAsString()).ok());
    REQUIRE(Receive<launcher::v1::Frame>(*session_).has_hello());
    std::vector<UniqueFd> fds;
    const auto asked = Receive<launcher::v1::Frame>(*session_, &fds);
    REQUIRE(asked.has_spawn());
    control_.emplace(std::move(fds.at(asked.spawn().control_fd())));
    launcher::v1::Frame spawned;
    spawned.mutable_spawned()->set_id(asked.spawn().id());
    spawned.mutable_spawned()->set_pid(pid);
    std::vector<UniqueFd> pidfds;
    pidfds.push_back(PidfdOf(pid));
    REQUIRE(session_->BlockingSend(spawned.SerializeAsString(), std::move(pidfds)).ok());
  }
  // Answers CreateMachine: that process runs the guest.
  void Create(const Guest& guest) {
    vmm::v1::Frame hello;
    hello.mutable_hello()->set_min_version(wire::kVmmMinVersion);
    hello.mutable_hello()->set_max_version(wire::kVmmMaxVersion);
    REQUIRE(control_->BlockingSend(hello.SerializeAsString()).ok());
    REQUIRE(Receive<vmm::v1::Frame>(*control_).has_hello());
    const auto asked = Receive<vmm::v1::Frame>(*control_);
    REQUIRE(asked.request().has_create());
    vmm::v1::Frame created;
    created.mutable_response()->set_id(asked.request().id());
    vmm::v1::Process& process = *created.mutable_response()->mutable_created()->mutable_process();
    process.set_pid(guest.pid());
    std::vector<UniqueFd> pidfds;
    pidfds.push_back(PidfdOf(guest.pid()));
    REQUIRE(control_->BlockingSend(created.SerializeAsString(), std::move(pidfds)).ok());
  }
  // The session only.
  void Lose() { session_.reset(); }
  // Waits until the machine's control socket is closed from the other side.
  void AwaitClosed() { REQUIRE(absl::IsUnavailable(control_->BlockingReceive().status())); }

 private:
  Folder folder_;
  UniqueFd listener_;
  std::optional<wire::FdSocket> session_, control_;
};

using Made = absl::StatusOr<std::unique_ptr<Machine>>;

struct World {
  World() {
    KvmBackendConfig config;
    config.launcher_socket = launcher.path();
    config.capabilities = LibvirtCapabilities();
    config.answer_timeout = kSoon;
    backend = *KvmBackend::Create(std::move(config));
  }
  std::future<Made> Create() {
    MachineSpec spec;
    spec.id = "test";
    spec.memory_mib = 16;
    spec.kernel_path = "/dev/null";
    return std::async(std::launch::async, [this, spec = std::move(spec)]() mutable {
      return backend->Create(std::move(spec));
    });
  }
  Launcher launcher;
  std::unique_ptr<KvmBackend> backend;
};

TEST_CASE(
    "lost launcher: a machine ends with the process of its guest, though the launcher lives") {
  Guest guest;
  World world;
  std::future<Made> making = world.Create();
  world.launcher.Spawn();
  world.launcher.Create(guest);
  const Made machine = making.get();
  REQUIRE(machine.ok());
  absl::Notification ended;
  MachineExit exit;
  (*machine)->OnExit([&](const MachineExit& told) {
    exit = told;
    ended.Notify();
  });
  world.launcher.Lose();
  world.launcher.AwaitClosed();
  CHECK(absl::IsUnavailable((*machine)->Start()));
  CHECK_FALSE(ended.HasBeenNotified());
  guest.End();
  REQUIRE(ended.WaitForNotificationWithTimeout(kSoon));
  CHECK(exit.reason == MachineExit::Reason::kLost);
}

// QEMU outlives a hearth-libvirt that was killed, until the next one ends it.
TEST_CASE("lost launcher: a machine ends with its launcher, though its guest's process lives") {
  Guest guest, process;
  World world;
  std::future<Made> making = world.Create();
  world.launcher.Spawn(process.pid());
  world.launcher.Create(guest);
  const Made machine = making.get();
  REQUIRE(machine.ok());
  absl::Notification ended;
  MachineExit exit;
  (*machine)->OnExit([&](const MachineExit& told) {
    exit = told;
    ended.Notify();
  });
  world.launcher.Lose();
  world.launcher.AwaitClosed();
  CHECK(absl::IsUnavailable((*machine)->Start()));
  CHECK_FALSE(ended.HasBeenNotified());
  process.End();
  REQUIRE(ended.WaitForNotificationWithTimeout(kSoon));
  CHECK(exit.reason == MachineExit::Reason::kLost);
}

TEST_CASE("lost launcher: a machine that has no guest yet ends at once") {
  World world;
  std::future<Made> making = world.Create();
  world.launcher.Spawn();
  const absl::Time begin = absl::Now();
  world.launcher.Lose();
  CHECK(absl::IsUnavailable(making.get().status()));
  CHECK(absl::Now() - begin < kSoon / 2);
}

}  // namespace
}  // namespace hearth::control
