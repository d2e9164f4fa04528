// SPDX-License-Identifier: Apache-2.0
// One vsock connection: the host's socket, both directions' credit, what is still to be sent to
// the guest. It moves bytes and keeps count; the device decides about packets.
//
// Thread: under the machine's device lock, on the loop's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "vmm/base/event_loop.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/vsock/limits.h"
#include "vmm/devices/vsock/packet.h"
#include "vmm/memory/guest_buffer.h"

namespace hearth::vmm {

// A connection by its ports; the CIDs are always the same two.
struct VsockPorts {
  uint32_t host = 0;
  uint32_t guest = 0;
  uint64_t Key() const { return (uint64_t{host} << 32) | guest; }
};

enum class VsockState : uint8_t {
  kConnecting,   // The host asked, the guest has not answered.
  kEstablished,  // Open in one direction at least.
  kClosing,      // Ended from our side in both directions; the guest's RST is awaited.
  kDraining,     // The guest is done with it; what it sent still goes to the host's end.
  kClosed,       // Final.
};

// Packets a connection owes the guest, as a set of bits.
enum VsockPending : uint8_t {
  kPendingRequest = 1,
  kPendingResponse = 2,
  kPendingShutdown = 4,
  kPendingCreditUpdate = 8,
  kPendingCreditRequest = 16,
};

class VsockConnection {
 public:
  // What came of reading from the host's socket.
  enum class ReadResult { kData, kNothing, kEnd };

  VsockConnection(VsockPorts ports, VsockState state, UniqueFd socket, EventLoop* loop)
      : ports_(ports), state_(state), socket_(std::move(socket)), loop_(loop) {}
  ~VsockConnection() { loop_->Remove(socket_.get()); }
  VsockConnection(const VsockConnection&) = delete;
  VsockConnection& operator=(const VsockConnection&) = delete;

  VsockPorts ports() const { return ports_; }
  int socket() const { return socket_.get(); }
  VsockState state() const { return state_; }
  // The one transition function: false, and no move, if the move is illegal.
  bool MoveTo(VsockState next);

  // The guest's view of its own receive buffer, from every packet of its. Hostile values make the
  // credit anything between 0 and 4 GiB; all that follows is how much we read from the socket.
  void UpdatePeer(const VsockHeader& header);
  uint32_t PeerCredit() const;

  // Guest to host. Write() takes all of `data` (socket first, then buffer); false, with the
  // connection to be reset, when it is more than the credit given. Flush() moves buffered bytes.
  bool Write(GuestBuffer& data);
  void Flush();
  bool drained() const { return buffered_ == 0; }
  // The guest sends no more: ends the host's reading once everything is flushed.
  void ShutdownHostReading();
  // The guest takes no more: the host's writing fails from now on.
  void ShutdownHostWriting();

  // Host to guest: reads at most what credit and `into` allow. kEnd: nothing will ever come again.
  ReadResult Read(GuestBuffer& into, uint32_t& bytes);
  // Whether Read() may yield something now.
  bool Readable() const;

  // The header of a packet to the guest; it carries, and thereby gives, our current credit.
  VsockHeader MakeHeader(uint64_t guest_cid, VsockOp op, uint32_t flags, uint32_t len);
  bool HasWork() const { return pending != 0 || Readable(); }

  // What the device keeps here.
  uint8_t pending = 0;          // VsockPending bits.
  uint32_t shutdown_flags = 0;  // Of the pending kShutdown and those sent before.
  uint32_t guest_shutdown = 0;  // What the guest declared by kShutdown.
  bool request_sent = false;
  bool socket_readable = true;  // Since the last EAGAIN.
  bool socket_writable = true;
  bool host_hung_up = false;        // Both directions of the host's end are closed.
  bool host_ended_writing = false;  // Its last byte has been read, or can never be.
  bool host_ended_reading = false;  // Bytes from the guest go nowhere any more.
  bool host_half_closed = false;    // The socket has reported the end of what the host wrote.
  uint64_t deadline_ns = 0;         // 0: none.

  // The device's list of connections with work.
  VsockConnection* next_ready = nullptr;
  VsockConnection* previous_ready = nullptr;
  bool in_ready_list = false;

 private:
  size_t SendToSocket(iovec* iov, size_t count);
  void Buffer(GuestBuffer& data);
  void CountForwarded(size_t bytes);

  VsockPorts ports_;
  VsockState state_;
  UniqueFd socket_;
  EventLoop* loop_;

  uint32_t peer_buf_alloc_ = 0;
  uint32_t peer_fwd_cnt_ = 0;
  uint32_t sent_ = 0;            // Bytes to the guest, modulo 2^32, as the protocol counts.
  uint32_t forwarded_ = 0;       // Bytes from the guest that left our buffer, modulo 2^32.
  uint32_t forwarded_told_ = 0;  // `forwarded_` in the last packet to the guest.

  std::unique_ptr<uint8_t[]> buffer_;  // A ring of kVsockBufferBytes, made when first needed.
  size_t buffer_head_ = 0;
  size_t buffered_ = 0;
};

}  // namespace hearth::vmm
