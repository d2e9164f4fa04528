// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "wire/limits.h"

namespace hearth::wire {

// One frame of hearth.vmm.v1 or hearth.launcher.v1 with the descriptors that came with it.
struct FdFrame {
  std::string payload;
  std::vector<UniqueFd> fds;
};

// A connected SOCK_STREAM Unix socket that carries frames (u32 little-endian length, payload) and,
// as SCM_RIGHTS with a frame's first byte, that frame's descriptors.
//
// Never blocks unless a function's name says so, whatever the socket's own O_NONBLOCK is, and never
// raises SIGPIPE. Used by one thread at a time; the owner locks otherwise. After a failed Status
// the connection is of no more use and the owner drops it:
//   UNAVAILABLE       the peer closed the connection, between two frames or while we sent
//   DATA_LOSS         the peer closed it inside a frame
//   INVALID_ARGUMENT  the peer broke the framing (size, number or place of descriptors)
class FdSocket {
 public:
  explicit FdSocket(UniqueFd socket) : socket_(std::move(socket)) {}
  FdSocket(FdSocket&&) = default;
  FdSocket& operator=(FdSocket&&) = default;

  int fd() const { return socket_.get(); }

  // The next whole frame, or nothing when the peer has not sent it yet.
  absl::StatusOr<std::optional<FdFrame>> TryReceive();

  // Sends a frame or queues what the socket does not take. The descriptors are closed once they are
  // sent (dup what you keep). RESOURCE_EXHAUSTED when kMaxQueuedFrames wait already: the peer does
  // not read. INVALID_ARGUMENT when the frame is over a limit; then nothing was sent.
  absl::Status Send(std::string payload, std::vector<UniqueFd> fds = {});
  // Continues with what is queued; to be called when the socket is writable.
  absl::Status Flush();
  bool wants_write() const { return !queue_.empty(); }

  // For simple peers and tests. A negative timeout waits for ever; DEADLINE_EXCEEDED is no failure
  // of the connection.
  absl::StatusOr<FdFrame> BlockingReceive(int timeout_ms = -1);
  absl::Status BlockingSend(std::string payload, std::vector<UniqueFd> fds = {},
                            int timeout_ms = -1);

  static constexpr size_t kMaxQueuedFrames = 256;

 private:
  struct Outgoing {
    std::string bytes;  // Header and payload.
    size_t sent = 0;
    std::vector<UniqueFd> fds;
  };

  // Reads at most `size` bytes into `data`; 0 when nothing is there yet.
  absl::StatusOr<size_t> ReceiveSome(uint8_t* data, size_t size);
  absl::Status TakeFds(msghdr& message);
  absl::Status WaitFor(short events, int64_t deadline_ms);

  UniqueFd socket_;
  std::array<uint8_t, kFrameHeaderBytes> header_{};
  size_t header_received_ = 0;
  size_t payload_received_ = 0;
  FdFrame incoming_;
  std::deque<Outgoing> queue_;
};

// A connected pair; both ends close-on-exec.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> MakeSocketPair();

}  // namespace hearth::wire
