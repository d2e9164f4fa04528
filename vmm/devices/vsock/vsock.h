// SPDX-License-Identifier: Apache-2.0
// virtio-vsock (VIRTIO 1.2, 5.10), stream sockets only, in user space.
//
// The host's end of a connection is one end of a SOCK_STREAM socket pair. Data from the guest goes
// straight from its memory to the socket; what the socket does not take waits in the connection's
// buffer, whose size is the credit that the guest was given. Data to the guest goes straight from
// the socket into the guest's receive buffers, as far as the guest's credit goes. The sockets are
// watched edge-triggered, so an end that cannot move costs nothing until it can.
//
// Threads: under the machine's device lock. Create, ConnectVsock, ProcessQueue and destruction on
// the loop's thread; the device takes the lock itself in the loop's callbacks.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "vmm/base/event_loop.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/base/token_bucket.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/vsock/connection.h"
#include "vmm/devices/vsock/limits.h"
#include "vmm/devices/vsock/packet.h"
#include "vmm/virtio/virtio_device.h"

namespace hearth::vmm {

struct VsockCounters {
  uint64_t rx_bytes = 0;  // From the guest.
  uint64_t tx_bytes = 0;  // To the guest.
  uint64_t connections_refused = 0;
};

// What a snapshot holds of the device. Connections are not part of it.
struct VsockDeviceState {
  uint32_t guest_cid = 0;
  std::vector<uint32_t> host_ports;
  uint32_t next_host_port = kVsockFirstHostPort;
  bool reset_unanswered = false;  // VsockReset::kUnanswered, and what goes with it.
  uint16_t reset_avail = 0;
};

// Where a restored device is with telling its driver so (vsock_restore.cc).
enum class VsockReset : uint8_t {
  kNone,        // Nothing to tell, or the driver has answered.
  kOwed,        // Waits for a buffer in the event queue.
  kUnanswered,  // Lies in the event queue.
};

class Vsock : public VirtioDevice {
 public:
  // The guest connected to a declared host port: `socket` is the host's end. Called on the loop's
  // thread with the device lock held; must not call back into the device. An error refuses the
  // connection.
  using AcceptCallback =
      std::function<absl::Status(uint32_t host_port, uint32_t guest_port, UniqueFd socket)>;
  struct Options {
    uint32_t guest_cid = 0;            // 3 or more.
    std::vector<uint32_t> host_ports;  // Those the guest may connect to, at most kVsockMaxPorts.
    AcceptCallback accept;
    EventLoop* loop = nullptr;  // Both outlive the device.
    Mutex* device_lock = nullptr;
    // For tests of the timeouts.
    uint64_t (*now_ns)() = MonotonicNs;
  };
  static absl::StatusOr<std::unique_ptr<Vsock>> Create(Options options);
  ~Vsock() override;

  // Opens a stream to the guest's `port`; `socket` is one end of a SOCK_STREAM pair. It is closed
  // when the guest refuses or does not answer in time. Before the guest's driver is ready the
  // request waits for it. ResourceExhausted at the connection limit. Device lock held.
  absl::Status ConnectVsock(uint32_t port, UniqueFd socket);

  std::string_view name() const override { return "vsock"; }
  uint32_t device_id() const override { return 19; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_max_sizes() const override;
  void ReadConfig(uint64_t offset, std::span<uint8_t> data) const override;
  void Activate(VirtioContext* context) override;
  void Reset() override;
  void ProcessQueue(uint16_t index) override;

  uint32_t guest_cid() const { return options_.guest_cid; }
  VsockDeviceState state() const;
  // Takes over a state, after the transport's was, on a device without connections. The driver, if
  // it runs, is told by a transport reset that its connections are gone; until it has answered, no
  // packet is taken or given. CID and host ports are those of Create(). FAILED_PRECONDITION when
  // a port is missing that the guest counts on, INVALID_ARGUMENT for nonsense.
  absl::Status Restore(const VsockDeviceState& saved);
  VsockReset reset() const { return reset_; }

  // Ends the connections whose time is up. The device's timer calls it while there are deadlines.
  void Sweep();

  const VsockCounters& counters() const { return counters_; }
  size_t connection_count() const { return connections_.size(); }

 private:
  using ConnectionMap = std::unordered_map<uint64_t, std::unique_ptr<VsockConnection>>;
  // Connections that ended where the loop may not be touched; the loop's thread frees them.
  struct Doomed {
    std::vector<std::unique_ptr<VsockConnection>> connections;
  };

  explicit Vsock(Options options);

  // From the guest (vsock_tx.cc).
  void ProcessTransmit();
  void HandlePacket(const VsockHeader& header, GuestBuffer& payload);
  void HandleRequest(VsockPorts ports, const VsockHeader& header);
  void HandleConnectionPacket(VsockConnection& connection, const VsockHeader& header,
                              GuestBuffer& payload);
  void HandleReset(VsockConnection& connection);
  void HandleShutdown(VsockConnection& connection, uint32_t flags);
  void HandleData(VsockConnection& connection, GuestBuffer& payload);

  // After a restore (vsock_restore.cc).
  void AdvanceReset();
  void PutReset();
  bool Working() const {
    return context_ != nullptr && context_->running() && reset_ == VsockReset::kNone;
  }

  // To the guest (vsock_rx.cc).
  void PumpReceive();
  uint32_t FillReply(GuestBuffer& buffer);
  uint32_t FillFromConnection(VsockConnection& connection, GuestBuffer& buffer);
  uint32_t FillData(VsockConnection& connection, GuestBuffer& buffer);
  uint32_t FillControl(VsockConnection& connection, GuestBuffer& buffer, VsockOp op,
                       uint32_t flags);
  void MarkReady(VsockConnection& connection);
  void Unready(VsockConnection& connection);

  // Connections.
  absl::StatusOr<VsockConnection*> AddConnection(VsockPorts ports, VsockState state,
                                                 UniqueFd socket);
  void OnSocket(VsockConnection& connection, uint32_t events);
  // Turns what is known of the host's end into a SHUTDOWN packet, if it says anything new.
  void UpdateShutdown(VsockConnection& connection);
  // Ends a connection whose guest sent all it will, once that has reached the host's end.
  void FinishIfDrained(VsockConnection& connection);
  void Remove(VsockConnection& connection);
  void RemoveWithReset(VsockConnection& connection);
  void SetDeadline(VsockConnection& connection, uint64_t timeout_ns);
  void DropAll();
  void Fail(std::string_view reason);

  Options options_;
  std::unique_ptr<Timer> sweep_timer_;
  bool sweep_armed_ = false;
  VirtioContext* context_ = nullptr;
  VsockCounters counters_;
  TokenBucket accept_budget_{kVsockConnectBurst, kVsockConnectsPerSecond};
  uint32_t next_host_port_;
  VsockReset reset_ = VsockReset::kNone;
  uint16_t reset_avail_ = 0;    // The event queue's available index before the driver's answer.
  uint16_t stale_packets_ = 0;  // So many of the next packets were sent before the snapshot.

  ConnectionMap connections_;
  std::shared_ptr<Doomed> doomed_ = std::make_shared<Doomed>();
  VsockConnection* ready_first_ = nullptr;
  VsockConnection* ready_last_ = nullptr;
  std::deque<VsockPorts> replies_;  // Each is owed an RST.
  bool transmit_waits_ = false;     // The transmit queue waits for room among the replies.
  DescriptorChain transmit_chain_;
  DescriptorChain receive_chain_;
  std::array<iovec, kMaxQueueSize> data_ranges_;  // The part of receive_chain_ behind the header.
};

}  // namespace hearth::vmm
