// SPDX-License-Identifier: Apache-2.0
// VMMs that their guests have taken over: the test holds their ends of the control sockets, and
// plays the launcher.
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "control-plane/backend/kvm/vmm_process.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

absl::Time Patience() { return SteadyNow() + absl::Minutes(2); }

// Says of each kill that the VMM has exited; its VMMs are numbered from 1.
class FakeLauncher {
 public:
  FakeLauncher() {
    char folder[] = "/tmp/hearth-launcher-XXXXXX";
    REQUIRE(mkdtemp(folder) != nullptr);
    folder_ = folder;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s", path().c_str());
    listener_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    REQUIRE(listen(listener_.get(), 1) == 0);
    thread_ = std::thread([this] { Serve(); });
  }
  ~FakeLauncher() {
    thread_.join();
    unlink(path().c_str());
    rmdir(folder_.c_str());
  }
  std::string path() const { return folder_ + "/launcher.sock"; }
  UniqueFd TakeControl() {
    absl::MutexLock lock(&mutex_);
    while (!control_) changed_.Wait(&mutex_);
    return std::move(control_);
  }
  void AwaitKillOf(uint64_t id) {
    absl::MutexLock lock(&mutex_);
    while (killed_.count(id) == 0) changed_.Wait(&mutex_);
  }

 private:
  void Serve() {
    wire::FdSocket session(UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
    launcher::v1::Frame hello;
    hello.mutable_hello()->set_min_version(wire::kLauncherMinVersion);
    hello.mutable_hello()->set_max_version(wire::kLauncherMaxVersion);
    session.BlockingSend(hello.SerializeAsString()).IgnoreError();
    for (;;) {
      absl::StatusOr<wire::FdFrame> received = session.BlockingReceive();
      if (!received.ok()) return;
      launcher::v1::Frame frame;
      frame.ParseFromString(received->payload);
      launcher::v1::Frame answer;
      std::vector<UniqueFd> fds;
      if (frame.has_spawn()) {
        answer.mutable_spawned()->set_id(frame.spawn().id());
        answer.mutable_spawned()->set_pid(getpid());
        // This test's own, which does not end before it.
        fds.emplace_back(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
      } else if (frame.has_kill()) {
        answer.mutable_exited()->set_id(frame.kill().id());
        answer.mutable_exited()->set_signal(SIGKILL);
      } else {
        continue;
      }
      session.BlockingSend(answer.SerializeAsString(), std::move(fds)).IgnoreError();
      absl::MutexLock lock(&mutex_);
      if (frame.has_spawn()) control_ = std::move(received->fds.at(0));
      if (frame.has_kill()) killed_.insert(frame.kill().id());
      changed_.SignalAll();
    }
  }

  std::string folder_;
  UniqueFd listener_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  UniqueFd control_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> killed_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

struct FakeVmm {
  std::shared_ptr<VmmProcess> process;
  wire::FdSocket socket;  // The VMM's end.

  absl::Status Send(const vmm::v1::Frame& frame) {
    return socket.BlockingSend(frame.SerializeAsString());
  }
  // Answers the next request.
  absl::Status Answer(vmm::v1::Response response = {}) {
    ASSIGN_OR_RETURN(const wire::FdFrame received, socket.BlockingReceive());
    vmm::v1::Frame request;
    request.ParseFromString(received.payload);
    vmm::v1::Frame frame;
    *frame.mutable_response() = std::move(response);
    frame.mutable_response()->set_id(request.request().id());
    return Send(frame);
  }
};

struct World {
  World() {
    client = LauncherClient::Connect(loop.get(), launcher.path(), "test", absl::Minutes(1)).value();
  }
  ~World() {
    client->Close(absl::CancelledError("the test is over"));
    client.reset();
    loop->Post([this] { loop->Stop(); });
    thread.join();
  }
  // One that has answered its first order.
  FakeVmm Spawn() {
    auto process = VmmProcess::Spawn(loop.get(), client,
                                     {"test", {wire::kVmmMinVersion, wire::kVmmMaxVersion}}, 16, {},
                                     Patience());
    REQUIRE(process.ok());
    FakeVmm vmm{*std::move(process), wire::FdSocket(launcher.TakeControl())};
    REQUIRE(vmm.socket.BlockingReceive().ok());
    vmm::v1::Frame hello;
    hello.mutable_hello()->set_min_version(wire::kVmmMinVersion);
    hello.mutable_hello()->set_max_version(wire::kVmmMaxVersion);
    REQUIRE(vmm.Send(hello).ok());
    REQUIRE(vmm.Answer().ok());
    REQUIRE(vmm.process->AwaitFirst(Patience()).ok());
    return vmm;
  }

  FakeLauncher launcher;
  std::unique_ptr<EventLoop> loop = EventLoop::Create().value();
  std::thread thread{[this] { loop->Run().IgnoreError(); }};
  std::shared_ptr<LauncherClient> client;
};

// What a guest may have even an honest VMM send without end: connections to the agent's port.
absl::Status SendConnection(wire::FdSocket& socket) {
  vmm::v1::Frame frame;
  frame.mutable_event()->mutable_vsock_connection()->set_port(wire::kAgentHostPort);
  std::vector<UniqueFd> fds;
  fds.emplace_back(eventfd(0, EFD_CLOEXEC));
  return socket.BlockingSend(frame.SerializeAsString(), std::move(fds));
}

vmm::v1::Frame ExitedFrame(const std::string& detail) {
  vmm::v1::Frame frame;
  frame.mutable_event()->mutable_exited()->set_detail(detail);
  return frame;
}

TEST_CASE("vmm process: of many frames some are read a turn, and the others have theirs between") {
  World world;
  FakeVmm vmm = world.Spawn();
  const UniqueFd other(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  absl::Notification held, go, other_served;
  bool all_read = false;
  world.loop->Post([&] {
    REQUIRE(world.loop
                ->Add(other.get(), EPOLLIN | EPOLLET,
                      [&](uint32_t) {
                        all_read = !vmm.process->alive();
                        other_served.Notify();
                      })
                .ok());
    held.Notify();
    go.WaitForNotification();
  });
  held.WaitForNotification();
  for (int i = 0; i < 100; ++i) REQUIRE(SendConnection(vmm.socket).ok());
  REQUIRE(vmm.Send({}).ok());  // A breach, by which it shows that all before it was read.
  REQUIRE(eventfd_write(other.get(), 1) == 0);
  go.Notify();
  other_served.WaitForNotification();
  CHECK_FALSE(all_read);
  world.launcher.AwaitKillOf(1);
  CHECK_FALSE(vmm.process->alive());
}

TEST_CASE("vmm process: one that floods holds up no other's call, nor its own end") {
  World world;
  FakeVmm flooding = world.Spawn();
  FakeVmm other = world.Spawn();
  std::thread flood([&] {
    while (SendConnection(flooding.socket).ok()) {
    }
  });
  REQUIRE(flooding.process->AcceptAgent(Patience()).ok());
  std::thread answers([&] {
    for (int i = 0; i < 10; ++i) other.Answer().IgnoreError();
  });
  for (int i = 0; i < 10; ++i) CHECK(other.process->Call({}, Patience()).ok());
  answers.join();
  flooding.process->Kill();
  CHECK(flooding.process->AwaitEnd(Patience()));
  flood.join();
  CHECK(other.process->alive());
}

TEST_CASE("vmm process: an event that is none, or that nothing can have brought, is a breach") {
  World world;
  FakeVmm vmm = world.Spawn();
  vmm::v1::Frame frame;
  SECTION("empty") { frame.mutable_event(); }
  SECTION("a connection to a port that the VMM was not given") {
    frame.mutable_event()->mutable_vsock_connection()->set_port(wire::kAgentHostPort + 1);
    std::vector<UniqueFd> fds;
    fds.emplace_back(eventfd(0, EFD_CLOEXEC));
    REQUIRE(vmm.socket.BlockingSend(frame.SerializeAsString(), std::move(fds)).ok());
  }
  SECTION("a second end") {
    frame = ExitedFrame("again");
    REQUIRE(vmm.Send(ExitedFrame("once")).ok());
  }
  if (!frame.event().has_vsock_connection()) REQUIRE(vmm.Send(frame).ok());
  world.launcher.AwaitKillOf(1);
  CHECK_FALSE(vmm.process->alive());
}

TEST_CASE("vmm process: the VMM's texts are bounded and sanitised") {
  World world;
  FakeVmm vmm = world.Spawn();
  const std::string text = "\x1B[31mfailed " + std::string(30'000, 'x');
  const std::string clean = "\xEF\xBF\xBD[31mfailed " + std::string(100, 'x');
  vmm::v1::Response response;
  response.mutable_error()->set_code(static_cast<int>(absl::StatusCode::kInternal));
  response.mutable_error()->set_message(text);
  std::thread answers([&] { vmm.Answer(std::move(response)).IgnoreError(); });
  const absl::Status told = vmm.process->Call({}, Patience()).status();
  answers.join();
  CHECK(told.code() == absl::StatusCode::kInternal);
  CHECK(absl::StartsWith(told.message(), absl::StrCat("the VMM: ", clean)));
  CHECK(told.message().size() < 1100);

  REQUIRE(vmm.Send(ExitedFrame(text)).ok());
  vmm.process->Kill();
  absl::Notification ended;
  vmm.process->OnExit([&](const MachineExit& exit) {
    CHECK(absl::StartsWith(exit.detail, clean));
    CHECK(exit.detail.size() <= 1024);
    ended.Notify();
  });
  ended.WaitForNotification();
}

}  // namespace
}  // namespace hearth::control
