// SPDX-License-Identifier: Apache-2.0
// The guest's side of a vsock device, for tests: sends packets as told, legal or not, and keeps the
// receive queue filled. Runs the device's loop itself.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "vmm/devices/vsock/vsock.h"
#include "vmm/virtio/mmio_driver_fake.h"

namespace hearth::vmm {

inline constexpr uint32_t kFakeCid = 3;
inline constexpr uint32_t kFakeHostPort = 1024;

struct FakePacket {
  VsockHeader header;
  std::vector<uint8_t> data;
  VsockOp op() const { return static_cast<VsockOp>(header.op.get()); }
};

class VsockGuestFake {
 public:
  static constexpr uint32_t kReceiveBufferBytes = 4096 + sizeof(VsockHeader);
  static constexpr size_t kMaxSendBytes = 512 * 1024;

  struct Accepted {
    uint32_t host_port;
    uint32_t guest_port;
    UniqueFd socket;  // Non-blocking.
  };

  // Starts the device's driver, with `receive_buffers` buffers posted.
  explicit VsockGuestFake(size_t receive_buffers = kVsockDataQueueSize);
  // Goes on where `saved` is, with a copy of its memory and a fresh device, which is not restored
  // yet.
  VsockGuestFake(const VsockGuestFake& saved, uint32_t cid, std::vector<uint32_t> host_ports);

  // A header from `guest_port` to `host_port` with all the credit there is.
  static VsockHeader Header(VsockOp op, uint32_t guest_port, uint32_t host_port = kFakeHostPort);
  // False when the transmit queue is full; `data` is at most kMaxSendBytes.
  bool Send(VsockHeader header, std::string_view data = {});
  // Makes a packet without data available, but does not notify. `slot` tells it from others that
  // wait, at most kMaxQueued.
  static constexpr uint64_t kMaxQueued = 64;
  void Queue(const VsockHeader& header, uint64_t slot);
  // The next packet of the device, whose buffer is posted again unless told otherwise; nothing if
  // there is none after the loop has run, or none that makes sense.
  std::optional<FakePacket> Receive(bool post_again = true);
  // False when the receive queue is full. `slot` is below kVsockDataQueueSize.
  bool PostReceiveBuffer(uint64_t slot);
  // The same for the event queue, of kEventBufferBytes, for what the device posts there.
  static constexpr uint32_t kEventBufferBytes = 4;
  void PostEventBuffer(uint32_t bytes = kEventBufferBytes);
  // The id of the next event; its buffer is not posted again.
  std::optional<uint32_t> TakeEvent();
  // Runs the loop until it has nothing to do.
  void RunLoop();

  // Opens a connection and returns the host's end.
  Accepted Connect(uint32_t guest_port);
  // The host connects to guest port 5000 and the guest accepts: the host's end and its port.
  Accepted AcceptFromHost();

  MmioDriverFake& driver() { return *driver_; }
  Vsock& device() { return *device_; }
  EventLoop& loop() { return *loop_; }
  Mutex& lock() { return lock_; }
  std::deque<Accepted>& accepted() { return accepted_; }
  bool refuse_accepts = false;

 private:
  void CreateDevice(uint32_t cid, std::vector<uint32_t> host_ports);

  Mutex lock_;
  std::unique_ptr<EventLoop> loop_;
  std::deque<Accepted> accepted_;
  std::unique_ptr<Vsock> device_;
  std::unique_ptr<MmioDriverFake> driver_;
  std::vector<uint64_t> slot_of_head_;
};

// The clock of the fake's devices.
inline uint64_t fake_now_ns = 1'000'000'000;

// A socket pair: the host's end (non-blocking) and the one to hand to ConnectVsock().
std::array<UniqueFd, 2> MakeSocketPair();
// Everything a socket has now; `ended` becomes true when it has an end, too.
std::string ReadAll(int socket, bool* ended = nullptr);

}  // namespace hearth::vmm
