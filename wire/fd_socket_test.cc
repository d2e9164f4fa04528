// SPDX-License-Identifier: Apache-2.0
#include "wire/fd_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

namespace hearth::wire {
namespace {

struct Pair {
  Pair() {
    auto ends = MakeSocketPair();
    REQUIRE(ends.ok());
    a.emplace(std::move(ends->first));
    b.emplace(std::move(ends->second));
  }
  std::optional<FdSocket> a, b;
};

UniqueFd PipeEnd() {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  ::close(ends[1]);
  return UniqueFd(ends[0]);
}

ino_t Inode(int fd) {
  struct stat info {};
  REQUIRE(fstat(fd, &info) == 0);
  return info.st_ino;
}

void SendRaw(int fd, const std::string& bytes, const std::vector<int>& fds = {}) {
  char control[CMSG_SPACE(64 * sizeof(int))] = {};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::copy(fds.begin(), fds.end(), reinterpret_cast<int*>(CMSG_DATA(rights)));
  }
  REQUIRE(sendmsg(fd, &message, 0) == static_cast<ssize_t>(bytes.size()));
}

TEST_CASE("fd socket: nothing to read is no frame and no error") {
  Pair pair;
  auto frame = pair.b->TryReceive();
  REQUIRE(frame.ok());
  CHECK(!frame->has_value());
}

TEST_CASE("fd socket: frames arrive in order, the empty one too") {
  Pair pair;
  for (const std::string payload : {"one", "", "three"}) REQUIRE(pair.a->Send(payload).ok());
  CHECK(pair.b->BlockingReceive(1000)->payload == "one");
  CHECK(pair.b->BlockingReceive(1000)->payload.empty());
  CHECK(pair.b->BlockingReceive(1000)->payload == "three");
}

TEST_CASE("fd socket: each frame gets its own descriptors, close-on-exec") {
  Pair pair;
  std::vector<ino_t> inodes;
  REQUIRE(pair.a->Send("none").ok());
  for (int count : {1, 2}) {
    std::vector<UniqueFd> fds;
    for (int i = 0; i < count; ++i) {
      fds.push_back(PipeEnd());
      inodes.push_back(Inode(fds.back().get()));
    }
    REQUIRE(pair.a->Send("frame", std::move(fds)).ok());
  }
  CHECK(pair.b->BlockingReceive(1000)->fds.empty());
  auto first = pair.b->BlockingReceive(1000);
  auto second = pair.b->BlockingReceive(1000);
  REQUIRE(first->fds.size() == 1);
  REQUIRE(second->fds.size() == 2);
  CHECK(Inode(first->fds[0].get()) == inodes[0]);
  CHECK(Inode(second->fds[0].get()) == inodes[1]);
  CHECK(Inode(second->fds[1].get()) == inodes[2]);
  CHECK((fcntl(first->fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("fd socket: a frame that comes byte by byte is put together") {
  Pair pair;
  const std::string bytes(
      "\x03\x00\x00\x00"
      "abc",
      7);
  for (size_t i = 0; i + 1 < bytes.size(); ++i) {
    SendRaw(pair.a->fd(), bytes.substr(i, 1));
    auto frame = pair.b->TryReceive();
    REQUIRE(frame.ok());
    CHECK(!frame->has_value());
  }
  SendRaw(pair.a->fd(), "c");
  CHECK(pair.b->BlockingReceive(1000)->payload == "abc");
}

TEST_CASE("fd socket: the limits of size hold on both sides") {
  Pair pair;
  CHECK(pair.a->Send(std::string(kMaxVmmFrameBytes + 1, 'x')).code() ==
        absl::StatusCode::kInvalidArgument);
  absl::Status sent;  // Catch2 takes assertions of one thread only.
  std::thread sender([&] { sent = pair.a->BlockingSend(std::string(kMaxVmmFrameBytes, 'x')); });
  const auto received = pair.b->BlockingReceive(10000);
  sender.join();
  CHECK(sent.ok());
  REQUIRE(received.ok());
  CHECK(received->payload.size() == kMaxVmmFrameBytes);
  SendRaw(pair.a->fd(), std::string("\x01\x00\x01\x00", 4));
  CHECK(pair.b->TryReceive().status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("fd socket: too many descriptors are refused on both sides and none leaks") {
  Pair pair;
  std::vector<UniqueFd> many;
  std::vector<int> raw;
  for (size_t i = 0; i <= kMaxFdsPerFrame; ++i) {
    many.push_back(PipeEnd());
    raw.push_back(many.back().get());
  }
  SendRaw(pair.a->fd(), std::string("\0\0\0\0", 4), raw);
  CHECK(pair.b->TryReceive().status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(pair.a->Send("x", std::move(many)).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("fd socket: descriptors inside a frame are refused") {
  Pair pair;
  UniqueFd fd = PipeEnd();
  SendRaw(pair.a->fd(), std::string("\x02\0\0\0", 4));
  SendRaw(pair.a->fd(), "ab", {fd.get()});
  CHECK(pair.b->TryReceive().status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("fd socket: closing between frames and inside a frame differ") {
  Pair between;
  REQUIRE(between.a->Send("last").ok());
  between.a.reset();
  CHECK(between.b->BlockingReceive(1000)->payload == "last");
  CHECK(between.b->BlockingReceive(1000).status().code() == absl::StatusCode::kUnavailable);
  Pair inside;
  SendRaw(inside.a->fd(), std::string("\x05\0\0\0ab", 6));
  inside.a.reset();
  CHECK(inside.b->BlockingReceive(1000).status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("fd socket: sending to a closed peer is an error, not a signal") {
  Pair pair;
  pair.b.reset();
  CHECK(pair.a->Send("x").code() == absl::StatusCode::kUnavailable);
}

TEST_CASE("fd socket: a peer that does not read exhausts the queue, then gets all that was taken") {
  Pair pair;
  const std::string payload(kMaxVmmFrameBytes, 'y');
  absl::Status status;
  size_t accepted = 0;
  while ((status = pair.a->Send(payload)).ok()) ++accepted;
  CHECK(status.code() == absl::StatusCode::kResourceExhausted);
  CHECK(accepted >= FdSocket::kMaxQueuedFrames);
  for (size_t i = 0; i < accepted; ++i) {
    REQUIRE(pair.a->Flush().ok());
    REQUIRE(pair.b->BlockingReceive(1000)->payload.size() == payload.size());
  }
  CHECK(!pair.a->wants_write());
  CHECK(pair.b->BlockingReceive(0).status().code() == absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace hearth::wire
