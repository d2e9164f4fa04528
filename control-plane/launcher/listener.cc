// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "control-plane/launcher/limits.h"
#include "vmm/base/status.h"

namespace hearth::launcher {

absl::Status GiveSocket(const std::string& path, uint32_t uid) {
  const UniqueFd file(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0) return ErrnoStatus(absl::StrCat("opening ", path));
  if (!S_ISSOCK(info.st_mode) || info.st_uid != geteuid() || info.st_nlink != 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " is not the socket that was made there: somebody put another file in "
                     "its place"));
  }
  if (fchownat(file.get(), "", uid, static_cast<gid_t>(-1), AT_EMPTY_PATH) != 0) {
    return ErrnoStatus(absl::StrCat("giving ", path, " to uid ", uid));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ListenFor(const std::string& path, uint32_t uid) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("--listen: '", path, "' is empty or over the ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes of a socket's path"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return ErrnoStatus("socket");
  if (connect(listener.get(), generic, sizeof(address)) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("another program listens on ", path));
  }
  if (errno == ECONNREFUSED) unlink(path.c_str());  // Left by one that was killed.
  const mode_t mask = umask(0077);
  const int bound = bind(listener.get(), generic, sizeof(address));
  umask(mask);
  if (bound != 0) return ErrnoStatus(absl::StrCat("binding ", path));
  if (uid != geteuid()) RETURN_IF_ERROR(GiveSocket(path, uid));
  if (listen(listener.get(), static_cast<int>(kMaxSessions)) != 0) return ErrnoStatus("listen");
  return listener;
}

absl::Status CheckPeer(int connection, uint32_t uid) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return ErrnoStatus("getsockopt(SO_PEERCRED)");
  }
  if (peer.uid == 0 || peer.uid == geteuid() || peer.uid == uid) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("uid ", peer.uid, " is not allowed; --allow-uid is ", uid));
}

}  // namespace hearth::launcher
