// SPDX-License-Identifier: Apache-2.0
#include "agent/testing/test_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/agent.h"
#include "agent/files.h"
#include "agent/identity.h"
#include "vmm/base/status.h"

namespace hearth::agent {

using agent::v1::Reply;

TestHost::TestHost(UniqueFd connection)
    : connection_(std::move(connection)), mux_({.side = wire::MuxSide::kHost}, this) {
  WaitFor([this] { return mux_.ready(); });
}

std::unique_ptr<TestHost> TestHost::Successor() const {
  UniqueFd same(fcntl(connection_.get(), F_DUPFD_CLOEXEC, 0));
  REQUIRE(same);
  return std::make_unique<TestHost>(std::move(same));
}

void TestHost::SayHelloAgain() {
  const wire::Mux again({.side = wire::MuxSide::kHost}, this);
  REQUIRE(send(connection_.get(), again.output().data(), again.output().size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(again.output().size()));
}

void TestHost::Step() {
  while (!mux_.output().empty()) {
    const ssize_t count = send(connection_.get(), mux_.output().data(), mux_.output().size(),
                               MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count <= 0) break;
    mux_.ConsumeOutput(static_cast<size_t>(count));
  }
  pollfd poll_fd = {connection_.get(), POLLIN, 0};
  if (!mux_.output().empty()) poll_fd.events |= POLLOUT;
  REQUIRE(poll(&poll_fd, 1, 60'000) == 1);
  if ((poll_fd.revents & (POLLIN | POLLHUP)) == 0) return;
  std::array<char, 65536> buffer;
  const ssize_t got = read(connection_.get(), buffer.data(), buffer.size());
  INFO((got == 0 ? "the agent closed the connection" : strerror(errno)));
  REQUIRE(got > 0);
  const absl::Status status = mux_.Receive({buffer.data(), static_cast<size_t>(got)});
  INFO(status.ToString());
  REQUIRE(status.ok());
}

void TestHost::WaitFor(const std::function<bool()>& condition) {
  while (!condition()) Step();
}

uint64_t TestHost::Send(const agent::v1::Call& call) {
  const absl::StatusOr<uint64_t> id = mux_.SendCall(call);
  INFO(id.status().ToString());
  REQUIRE(id.ok());
  return *id;
}

Reply TestHost::WaitReply(uint64_t call_id) {
  WaitFor([&] { return replies_.count(call_id) > 0; });
  return replies_.at(call_id);
}

Reply TestHost::Call(const agent::v1::Call& call) { return WaitReply(Send(call)); }

void TestHost::Write(uint32_t stream_id, const std::string& data, bool end) {
  size_t sent = 0;
  WaitFor([&] {
    const absl::StatusOr<size_t> count =
        mux_.SendData(stream_id, absl::string_view(data).substr(sent));
    if (!count.ok()) return true;  // The agent wants no more.
    sent += *count;
    return sent == data.size();
  });
  if (end) mux_.EndStream(stream_id).IgnoreError();
}

std::string TestHost::ReadAll(uint32_t stream_id) {
  WaitFor([&] { return ends_.count(stream_id) > 0; });
  return data_[stream_id];
}

std::string TestHost::Logs(const std::string& request_id) const {
  std::string text;
  for (const agent::v1::Event& event : events_) {
    for (const agent::v1::LogLine& line : event.log_lines().lines()) {
      if (line.request_id() == request_id) absl::StrAppend(&text, line.text(), "\n");
    }
  }
  return text;
}

uint64_t TestHost::dropped_log_lines() const {
  uint64_t dropped = 0;
  for (const agent::v1::Event& event : events_) dropped += event.log_lines().dropped_lines();
  return dropped;
}

void TestHost::OnReady(const agent::v1::Hello& peer, uint32_t) { hello_ = peer; }
void TestHost::OnReply(Reply reply) { replies_[reply.id()] = std::move(reply); }
void TestHost::OnEvent(agent::v1::Event event) { events_.push_back(std::move(event)); }
void TestHost::OnStreamData(uint32_t stream_id, absl::string_view data) {
  data_[stream_id].append(data.data(), data.size());
  if (grants_credit_) mux_.Consume(stream_id, data.size());
}
void TestHost::OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view) {
  ends_[stream_id] = aborted;
}

namespace {

// Changes nothing of the machine that the test runs on.
class NoMachine : public Machine {
 public:
  // Limits only where this machine has their controllers.
  NoMachine(bool limits, std::string boot_id_file)
      : limits_(limits), boot_id_file_(std::move(boot_id_file)) {
    WriteBootId("test-boot");
  }
  ~NoMachine() override { unlink(boot_id_file_.c_str()); }
  absl::StatusOr<ConfiguredMachine> Configure(
      const agent::v1::ConfigureInstance& configure) override {
    ConfiguredMachine configured;
    configured.boot_id_file = boot_id_file_;
    if (limits_) {
      ASSIGN_OR_RETURN(configured.limits, LimitsOf(configure.limits()));
    }
    return configured;
  }
  absl::StatusOr<std::string> Restore(const agent::v1::RestoreInstance& restore) override {
    if (restore.hostname() == "refused") return absl::InternalError("the machine refuses");
    ASSIGN_OR_RETURN(std::string boot_id, RandomUuid());
    WriteBootId(boot_id);
    return boot_id;
  }
  absl::Status CatchUp(int64_t unix_ns) override {
    return unix_ns < 0 ? absl::InternalError("the machine refuses") : absl::OkStatus();
  }
  void Reset() override {}

 private:
  void WriteBootId(const std::string& boot_id) {
    const UniqueFd file(open(boot_id_file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
    const std::string line = boot_id + "\n";
    if (pwrite(file.get(), line.data(), line.size(), 0) < 0) std::perror("write the boot id");
  }
  const bool limits_;
  const std::string boot_id_file_;
};

absl::Status Serve(UniqueFd connection, std::vector<UniqueFd> redials,
                   const std::string& cgroup_mount) {
  if (unshare(CLONE_NEWNS) != 0) return ErrnoStatus("unshare");
  if (mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return ErrnoStatus("private");
  if (mount("cgroup2", cgroup_mount.c_str(), "cgroup2", 0, nullptr) != 0) {
    return ErrnoStatus("mount cgroup2");
  }
  signal(SIGPIPE, SIG_IGN);
  absl::StatusOr<Cgroup> root = Cgroup::Open(cgroup_mount);
  RETURN_IF_ERROR(root.status());
  RETURN_IF_ERROR(root->DelegateControllers());
  NoMachine machine(root->HasController("memory"), absl::StrCat(cgroup_mount, ".boot-id"));
  AgentOptions options;
  options.connection.socket = std::move(connection);
  options.connection.dial = [&redials]() -> absl::StatusOr<UniqueFd> {
    if (redials.empty()) return absl::UnavailableError("the test takes no more");
    UniqueFd next = std::move(redials.back());
    redials.pop_back();
    return next;
  };
  options.connection.say = [](absl::string_view) {};
  // Named like the folder, /tmp/NAME, which is unique.
  options.cgroup_path = absl::StrCat(cgroup_mount, "/", absl::string_view(cgroup_mount).substr(5));
  options.runtime_api_port = 0;
  options.boot_id = "test-boot";
  ASSIGN_OR_RETURN(std::unique_ptr<Agent> agent, Agent::Create(std::move(options), &machine));
  return agent->Run();
}

}  // namespace

TestAgent::TestAgent(int redials) {
  int sockets[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
  UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  std::vector<UniqueFd> their_redials;
  for (int i = 0; i < redials; ++i) {
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
    redials_.emplace_back(sockets[0]);
    their_redials.emplace_back(sockets[1]);
  }
  char directory[] = "/tmp/hearth-agent-test-XXXXXX";
  REQUIRE(mkdtemp(directory) != nullptr);
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    ours.reset();
    redials_.clear();
    const absl::Status status = Serve(std::move(theirs), std::move(their_redials), directory);
    if (!status.ok() && !absl::IsUnavailable(status)) {
      std::fprintf(stderr, "test agent: %s\n", status.ToString().c_str());
    }
    _exit(status.ok() ? 0 : 1);
  }
  theirs.reset();
  host_ = std::make_unique<TestHost>(std::move(ours));
  directory_ = directory;
}

TestAgent::~TestAgent() {
  // The agent ends with its connection, or with the last that it can make.
  host_.reset();
  redials_.clear();
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
  // Not before: it is the agent's mount point.
  rmdir(directory_.c_str());
}

void TestAgent::Reconnect() {
  host_.reset();
  UniqueFd next = std::move(redials_.back());
  redials_.pop_back();
  host_ = std::make_unique<TestHost>(std::move(next));
}

// As the agent's mount namespace has it.
std::string TestAgent::CgroupFile(const std::string& name) const {
  return absl::StrCat("/proc/", pid_, "/root", directory_, "/",
                      absl::string_view(directory_).substr(5), "/", name);
}

void TestAgent::KillUserCode() { REQUIRE(WriteSmallFile(CgroupFile("cgroup.kill"), "1").ok()); }

bool TestAgent::Frozen() const {
  const absl::StatusOr<std::string> events = ReadSmallFile(CgroupFile("cgroup.events"));
  REQUIRE(events.ok());
  return NumberAfter(*events, "frozen") != 0;
}

int TestAgent::WaitForEnd() {
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool TestAgent::Possible() {
  if (getuid() != 0) {
    WARN("SKIPPED: needs root");
    return false;
  }
  return true;
}

void TestAgent::Configure(const agent::v1::ResourceLimits& limits) {
  agent::v1::Call call;
  *call.mutable_configure_instance()->mutable_limits() = limits;
  const Reply reply = host_->Call(call);
  INFO(reply.error().message());
  REQUIRE_FALSE(reply.has_error());
}

}  // namespace hearth::agent
