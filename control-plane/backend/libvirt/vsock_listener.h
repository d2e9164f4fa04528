// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/event_loop.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

// Whether QEMU can give guests a vsock device that this host's kernel serves (vhost-vsock).
// UNAVAILABLE, with the reason, when it cannot.
absl::Status CheckVhostVsock();

// A context id for a guest, not one of the reserved. Random in 32 bits, for the host's are
// everyone's: should another guest have it, QEMU does not start.
absl::StatusOr<uint32_t> RandomContextId();

// Where the agents dial: the host's vsock port wire::kAgentHostPort, of which a host has one. Any
// guest of the host can, Hearth's or not; the kernel vouches for its context id.
class VsockListener {
 public:
  using Accepted = std::function<void(uint32_t cid, UniqueFd connection)>;

  // UNAVAILABLE when another program listens there. `accepted` is called on the loop's thread.
  static absl::StatusOr<std::unique_ptr<VsockListener>> Create(EventLoop* loop, Accepted accepted);
  ~VsockListener();
  VsockListener(const VsockListener&) = delete;
  VsockListener& operator=(const VsockListener&) = delete;

 private:
  VsockListener(EventLoop* loop, UniqueFd socket, Accepted accepted)
      : loop_(loop), socket_(std::move(socket)), accepted_(std::move(accepted)) {}
  void Accept();

  EventLoop* const loop_;
  const UniqueFd socket_;
  const Accepted accepted_;
};

}  // namespace hearth::libvirt
