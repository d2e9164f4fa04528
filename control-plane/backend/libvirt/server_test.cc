// SPDX-License-Identifier: Apache-2.0
// hearth-libvirt's sessions and machines, as far as they go without libvirt: its daemon is absent.
#include "control-plane/backend/libvirt/server.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "absl/strings/match.h"
#include "control-plane/backend/libvirt/limits.h"
#include "control-plane/launcher/listener.h"
#include "wire/limits.h"

namespace hearth::libvirt {
namespace {

constexpr int kPatienceMs = 30'000;
constexpr char kUuid[] = "01890a5d-ac96-774b-bcce-b302099a8057";

UniqueFd FileWith(const std::string& content) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  REQUIRE(write(fd.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  return fd;
}

template <typename Frame>
Frame Receive(wire::FdSocket& socket) {
  auto received = socket.BlockingReceive(kPatienceMs);
  INFO(received.status());
  REQUIRE(received.ok());
  Frame frame;
  REQUIRE(frame.ParseFromString(received->payload));
  return frame;
}

template <typename Frame>
Frame HelloOf(uint32_t version) {
  Frame frame;
  frame.mutable_hello()->set_min_version(version);
  frame.mutable_hello()->set_max_version(version);
  return frame;
}

class Running {
 public:
  Running() {
    char name[] = "/tmp/hearth-server-XXXXXX";
    folder_ = mkdtemp(name);
    loop_ = *EventLoop::Create();
    files_ = *RunDirectory::Open(folder_ + "/run", true);
    HypervisorOptions hypervisor;
    hypervisor.uri = "qemu+unix:///system?socket=" + folder_ + "/absent";
    hypervisor.on_ended = [](const std::string&, DomainEnd) {};
    hypervisor.on_lost = [] {};
    hypervisor.log = [](const std::string&) {};
    hypervisor_ = *Hypervisor::Create(std::move(hypervisor), false);
    ServerOptions options;
    options.listener = *launcher::ListenFor(socket(), geteuid());
    options.allowed_uid = geteuid();
    options.context.loop = loop_.get();
    options.context.hypervisor = hypervisor_.get();
    options.context.files = files_.get();
    options.context.uri = "qemu:///embed?root=" + folder_;
    options.log = [](const std::string&) {};
    server_ = *Server::Create(std::move(options));
    thread_ = std::thread([this] { loop_->Run().IgnoreError(); });
  }
  ~Running() {
    loop_->Post([this] { server_->ShutDown(); });
    thread_.join();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  std::string socket() const { return folder_ + "/server.sock"; }
  std::string LogOf(const std::string& domain) const {
    return absl::StrCat(folder_, "/log/qemu/", domain, ".log");
  }
  // As libvirt tells of it.
  void EndDomain(const std::string& domain) {
    std::promise<void> told;
    loop_->Post([this, &domain, &told] {
      server_->OnDomainEnded(domain, DomainEnd());
      told.set_value();
    });
    told.get_future().wait();
  }

 private:
  std::string folder_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<RunDirectory> files_;
  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

// hearthd's end of a session with it.
class Hearthd {
 public:
  explicit Hearthd(const Running& running) : session_(Dial(running.socket())) {
    const auto hello = HelloOf<launcher::v1::Frame>(wire::kLauncherMaxVersion);
    REQUIRE(session_.BlockingSend(hello.SerializeAsString()).ok());
    REQUIRE(Receive<launcher::v1::Frame>(session_).has_hello());
  }
  launcher::v1::Spawned Spawn(uint64_t id, UniqueFd control) {
    launcher::v1::Frame frame;
    frame.mutable_spawn()->set_id(id);
    std::vector<UniqueFd> fds;
    fds.push_back(std::move(control));
    REQUIRE(session_.BlockingSend(frame.SerializeAsString(), std::move(fds)).ok());
    return Receive<launcher::v1::Frame>(session_).spawned();
  }
  launcher::v1::Exited AwaitExited() { return Receive<launcher::v1::Frame>(session_).exited(); }
  void Kill(uint64_t id) {
    launcher::v1::Frame frame;
    frame.mutable_kill()->set_id(id);
    REQUIRE(session_.BlockingSend(frame.SerializeAsString()).ok());
  }

 private:
  static UniqueFd Dial(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    return fd;
  }
  wire::FdSocket session_;
};

// A machine's control socket.
class Control {
 public:
  Control(Hearthd& hearthd, uint64_t id) : Control(hearthd, id, *wire::MakeSocketPair()) {}
  void Greet() {
    const auto hello = HelloOf<vmm::v1::Frame>(wire::kVmmMaxVersion);
    REQUIRE(socket_.BlockingSend(hello.SerializeAsString()).ok());
    REQUIRE(Receive<vmm::v1::Frame>(socket_).has_hello());
  }
  // The code of its answer.
  absl::StatusCode Ask(vmm::v1::Request request, std::vector<UniqueFd> fds = {}) {
    request.set_id(++last_);
    vmm::v1::Frame frame;
    *frame.mutable_request() = std::move(request);
    REQUIRE(socket_.BlockingSend(frame.SerializeAsString(), std::move(fds)).ok());
    const vmm::v1::Response response = Receive<vmm::v1::Frame>(socket_).response();
    CHECK(response.id() == last_);
    return static_cast<absl::StatusCode>(response.error().code());
  }
  wire::FdSocket& socket() { return socket_; }

 private:
  Control(Hearthd& hearthd, uint64_t id, std::pair<UniqueFd, UniqueFd> ends)
      : socket_(std::move(ends.first)) {
    REQUIRE(hearthd.Spawn(id, std::move(ends.second)).error_code() == 0);
  }
  wire::FdSocket socket_;
  uint64_t last_ = 0;
};

TEST_CASE("server: of a domain that another hearth-libvirt left the log goes when it ends") {
  Running running;
  const std::string ours = absl::StrCat("hearth-", kUuid), operators = "hearth-db";
  for (const std::string& domain : {ours, operators}) {
    std::filesystem::create_directories(std::filesystem::path(running.LogOf(domain)).parent_path());
    std::ofstream(running.LogOf(domain)) << "shutting down";
    running.EndDomain(domain);
  }
  CHECK_FALSE(std::filesystem::exists(running.LogOf(ours)));
  CHECK(std::filesystem::exists(running.LogOf(operators)));
}

TEST_CASE("server: a session names its machines, each once, and there is an end to them") {
  const Running running;
  Hearthd hearthd(running);
  std::vector<UniqueFd> ours;
  const auto spawn = [&](uint64_t id) {
    auto ends = *wire::MakeSocketPair();
    ours.push_back(std::move(ends.first));
    return static_cast<absl::StatusCode>(hearthd.Spawn(id, std::move(ends.second)).error_code());
  };
  for (uint64_t id = 0; id < kMaxMachines; ++id) REQUIRE(spawn(id) == absl::StatusCode::kOk);
  CHECK(spawn(kMaxMachines) == absl::StatusCode::kResourceExhausted);
  hearthd.Kill(7);
  CHECK(hearthd.AwaitExited().id() == 7);
  CHECK(spawn(8) == absl::StatusCode::kAlreadyExists);
  CHECK(spawn(7) == absl::StatusCode::kOk);
}

TEST_CASE("server: what is said before Hello, or is no request, ends that machine alone") {
  const Running running;
  Hearthd hearthd(running);
  Control other(hearthd, 1), early(hearthd, 2), odd(hearthd, 3);
  other.Greet();
  vmm::v1::Frame frame;
  frame.mutable_request()->mutable_start();
  REQUIRE(early.socket().BlockingSend(frame.SerializeAsString()).ok());
  CHECK(hearthd.AwaitExited().id() == 2);
  odd.Greet();
  REQUIRE(odd.socket().BlockingSend("\xFF\xFF").ok());
  CHECK(hearthd.AwaitExited().id() == 3);
  vmm::v1::Request request;
  request.mutable_get_statistics();
  CHECK(other.Ask(request) == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("server: requests out of turn and without their descriptors are refused") {
  const Running running;
  Hearthd hearthd(running);
  Control control(hearthd, 1);
  control.Greet();
  vmm::v1::Request request;
  request.mutable_start();
  CHECK(control.Ask(request) == absl::StatusCode::kFailedPrecondition);
  request.mutable_pause();
  CHECK(control.Ask(request) == absl::StatusCode::kFailedPrecondition);
  request.mutable_save();
  CHECK(control.Ask(request) == absl::StatusCode::kFailedPrecondition);
  request.mutable_get_working_set();
  CHECK(control.Ask(request) == absl::StatusCode::kUnimplemented);
  CHECK(control.Ask({}) == absl::StatusCode::kUnimplemented);
  request.mutable_create()->set_memory_mib(128);
  CHECK(control.Ask(request) == absl::StatusCode::kInvalidArgument);
  request.mutable_create()->set_has_initrd(true);
  CHECK(control.Ask(request) == absl::StatusCode::kUnimplemented);
}

TEST_CASE(
    "server: without libvirt's daemon a saved domain is not judged, and its name is free again") {
  const Running running;
  Hearthd hearthd(running);
  v1::SavedDomain saved;
  saved.set_format_version(kSavedDomainVersion);
  saved.set_hypervisor("libvirt 1.2.3, QEMU 4.5.6");
  saved.set_uuid(kUuid);
  saved.set_memory_mib(kMinGuestMemoryMib);
  saved.set_vcpu_count(1);
  saved.set_image_bytes(1);
  for (uint64_t id = 1; id <= 2; ++id) {
    Control control(hearthd, id);
    control.Greet();
    vmm::v1::Request request;
    request.mutable_restore()->set_state_fd(0);
    request.mutable_restore()->set_memory_fd(1);
    std::vector<UniqueFd> fds;
    fds.push_back(FileWith(saved.SerializeAsString()));
    fds.push_back(FileWith(""));
    CHECK(control.Ask(request, std::move(fds)) == absl::StatusCode::kUnavailable);
    CHECK(hearthd.AwaitExited().id() == id);
  }
}

}  // namespace
}  // namespace hearth::libvirt
