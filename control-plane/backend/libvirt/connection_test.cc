// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/connection.h"

#include <libvirt/libvirt.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "control-plane/backend/libvirt/event_thread.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {
namespace {

struct Folder {
  Folder() {
    char name[] = "/tmp/hearth-daemon-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string socket() const { return path + "/socket"; }
  std::string uri() const { return "qemu+unix:///system?socket=" + socket(); }
  std::string path;
};

// Takes connections, as the kernel does for a daemon that is stopped, and never answers.
UniqueFd Hanging(const std::string& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(listener.get(), 8) == 0);
  return listener;
}

struct Tested {
  explicit Tested(const std::string& uri, absl::Duration patience = absl::InfiniteDuration()) {
    ConnectionOptions options;
    options.uri = uri;
    options.patience = patience;
    options.prepare = [this](_virConnect*) {
      ++prepared;
      return prepare;
    };
    options.on_event = [](_virDomain*, int, int) {};
    options.on_lost = [this] { ++lost; };
    connection = Connection::Create(std::move(options));
  }
  ~Tested() { connection->Close(); }
  // One at a time in a process.
  const std::unique_ptr<EventThread> events = *EventThread::Start();
  int prepared = 0;
  int lost = 0;
  absl::Status prepare;
  std::shared_ptr<Connection> connection;
};

TEST_CASE("connection: it is opened once, and prepared before anybody gets it") {
  Tested tested("test:///default");
  CHECK(tested.prepared == 0);
  const auto first = tested.connection->Get();
  REQUIRE(first.ok());
  CHECK(tested.prepared == 1);
  CHECK(*tested.connection->Get() == *first);
  CHECK(tested.prepared == 1);
  CHECK(tested.lost == 0);
}

TEST_CASE("connection: when it cannot be prepared, the next call tries again") {
  Tested tested("test:///default");
  tested.prepare = absl::FailedPreconditionError("no QEMU");
  CHECK(absl::IsFailedPrecondition(tested.connection->Get().status()));
  tested.prepare = absl::OkStatus();
  CHECK(tested.connection->Get().ok());
  CHECK(tested.prepared == 2);
}

TEST_CASE("connection: without a daemon it says what must run, and the next call tries again") {
  const Folder folder;
  Tested tested(folder.uri());
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = tested.connection->Get().status();
    CHECK(absl::IsUnavailable(status));
    CHECK(absl::StrContains(status.message(), folder.socket()));
    CHECK(absl::StrContains(status.message(), "a libvirt daemon must run"));
  }
  CHECK(tested.prepared == 0);
}

TEST_CASE("connection: a daemon that hangs is waited for in vain, but not for ever") {
  const Folder folder;
  Tested tested(folder.uri(), absl::Milliseconds(300));
  {
    const UniqueFd daemon = Hanging(folder.socket());
    const absl::Time begin = absl::Now();
    for (int i = 0; i < 2; ++i) {
      const absl::Status status = tested.connection->Get().status();
      CHECK(absl::IsUnavailable(status));
      CHECK(absl::StrContains(status.message(), "does not answer within 300ms"));
    }
    CHECK(absl::Now() - begin >= absl::Milliseconds(300));
  }
  // It has gone: the attempt ends, and others are made.
  absl::Status status;
  do {
    status = tested.connection->Get().status();
    CHECK(absl::IsUnavailable(status));
  } while (!absl::StrContains(status.message(), "a libvirt daemon must run"));
}

TEST_CASE("connection: closed, it does not wait for a daemon that hangs") {
  const Folder folder;
  const UniqueFd daemon = Hanging(folder.socket());
  Tested tested(folder.uri(), absl::Milliseconds(300));
  CHECK(absl::IsUnavailable(tested.connection->Get().status()));
  tested.connection->Close();
  CHECK(absl::IsUnavailable(tested.connection->Get().status()));
  CHECK(tested.prepared == 0);
}

}  // namespace
}  // namespace hearth::libvirt
