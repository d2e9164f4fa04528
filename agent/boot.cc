// SPDX-License-Identifier: Apache-2.0
#include "agent/boot.h"

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstring>
#include <memory>

// After sys/socket.h, whose types it uses.
#include <linux/vm_sockets.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/files.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::agent {
namespace {

constexpr char kPortName[] = "agent";
// By itself Linux waits two. The host's listener takes part at once, so only a busy machine takes
// long; and to the host, which may have accepted it, a connection given up looks like a lost one.
constexpr time_t kConnectSeconds = 10;

absl::StatusOr<UniqueFd> ConnectVsock() {
  UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return ErrnoStatus("make a vsock socket");
  const timeval patience = {kConnectSeconds, 0};
  if (setsockopt(socket.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience,
                 sizeof(patience)) != 0) {
    return ErrnoStatus("set how long a vsock may take to connect");
  }
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_HOST;
  address.svm_port = wire::kAgentHostPort;
  if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(
        absl::StrCat("connect to vsock port ", wire::kAgentHostPort, " of the host"));
  }
  return socket;
}

absl::StatusOr<UniqueFd> OpenSerialPort() {
  const std::string ports = "/sys/class/virtio-ports";
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(ports.c_str()), closedir);
  if (directory == nullptr) return ErrnoStatus(absl::StrCat("open ", ports));
  while (const dirent* entry = readdir(directory.get())) {
    const absl::StatusOr<std::string> name =
        ReadSmallFile(absl::StrCat(ports, "/", entry->d_name, "/name"));
    if (!name.ok() || absl::StripAsciiWhitespace(*name) != kPortName) continue;
    const std::string path = absl::StrCat("/dev/", entry->d_name);
    UniqueFd port(open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!port) return ErrnoStatus(absl::StrCat("open ", path));
    return port;
  }
  return absl::NotFoundError(absl::StrCat("no virtio-serial port is named ", kPortName));
}

}  // namespace

absl::StatusOr<Transport> TransportOf(absl::string_view kernel_command_line) {
  Transport transport = Transport::kAny;
  for (absl::string_view word :
       absl::StrSplit(kernel_command_line, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (!absl::ConsumePrefix(&word, "hearth.transport=")) continue;
    if (word == "vsock") {
      transport = Transport::kVsock;
    } else if (word == "virtio-serial") {
      transport = Transport::kVirtioSerial;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("hearth.transport=", word, ": vsock and virtio-serial are known"));
    }
  }
  return transport;
}

absl::Status BringUpLoopback() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return ErrnoStatus("make a socket");
  ifreq request = {};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  if (ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return ErrnoStatus("read lo's flags");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return ErrnoStatus("bring up lo");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Connect(Transport transport) {
  if (transport == Transport::kVirtioSerial) return OpenSerialPort();
  absl::StatusOr<UniqueFd> vsock = ConnectVsock();
  if (vsock.ok() || transport == Transport::kVsock) return vsock;
  absl::StatusOr<UniqueFd> port = OpenSerialPort();
  if (port.ok()) return port;
  return absl::UnavailableError(
      absl::StrCat(vsock.status().message(), "; ", port.status().message()));
}

}  // namespace hearth::agent
