// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/vsock_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

// After sys/socket.h, whose types it uses.
#include <linux/vm_sockets.h>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::libvirt {
namespace {

constexpr int kBacklog = 128;
// Those below are given out by hand, by people and by libvirt.
constexpr uint32_t kFirstContextId = 0x10000;

sockaddr* Address(sockaddr_vm* address) { return reinterpret_cast<sockaddr*>(address); }

}  // namespace

absl::Status CheckVhostVsock() {
  const UniqueFd device(open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC));
  if (device) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("/dev/vhost-vsock: ", strerror(errno)));
}

absl::StatusOr<uint32_t> RandomContextId() {
  uint32_t cid = 0;
  do {
    if (getrandom(&cid, sizeof(cid), 0) != sizeof(cid)) return ErrnoStatus("getrandom");
  } while (cid < kFirstContextId || cid == VMADDR_CID_ANY);
  return cid;
}

absl::StatusOr<std::unique_ptr<VsockListener>> VsockListener::Create(EventLoop* loop,
                                                                     Accepted accepted) {
  UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return ErrnoStatus("a vsock");
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = wire::kAgentHostPort;
  if (bind(socket.get(), Address(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("vsock port ", wire::kAgentHostPort, ": ", strerror(errno)));
  }
  if (listen(socket.get(), kBacklog) != 0) return ErrnoStatus("listening for agents");
  std::unique_ptr<VsockListener> listener(
      new VsockListener(loop, std::move(socket), std::move(accepted)));
  RETURN_IF_ERROR(loop->Add(listener->socket_.get(), EPOLLIN,
                            [self = listener.get()](uint32_t) { self->Accept(); }));
  return listener;
}

VsockListener::~VsockListener() { loop_->Remove(socket_.get()); }

// One at a time: the loop has others to serve.
void VsockListener::Accept() {
  sockaddr_vm peer{};
  socklen_t size = sizeof(peer);
  UniqueFd connection(accept4(socket_.get(), Address(&peer), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection && peer.svm_family == AF_VSOCK) accepted_(peer.svm_cid, std::move(connection));
}

}  // namespace hearth::libvirt
