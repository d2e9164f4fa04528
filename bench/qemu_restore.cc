// SPDX-License-Identifier: Apache-2.0
// QEMU's way: a migration into a file, and a new process that takes it from there.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "bench/clock.h"
#include "bench/console.h"
#include "bench/qemu_process.h"
#include "bench/restored_machines.h"

namespace hearth::bench {
namespace {

// Where the migration file is in the restored process.
constexpr int kIncomingFd = 3;

absl::StatusOr<UniqueFd> ConnectMonitor(const std::string& path) {
  UniqueFd monitor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return absl::InvalidArgumentError("TMPDIR is too long");
  std::copy(path.begin(), path.end(), address.sun_path);
  if (connect(monitor.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus("connect to QEMU's monitor");
  }
  return monitor;
}

absl::Status SendWithFd(int socket, std::string text, int fd) {
  iovec bytes{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus("write to QEMU's monitor");
  }
  return absl::OkStatus();
}

class QemuSnapshot : public SavedGuest {
 public:
  QemuSnapshot(std::unique_ptr<BootFiles> files, std::vector<std::string> arguments,
               std::string folder)
      : files_(std::move(files)), arguments_(std::move(arguments)), folder_(std::move(folder)) {}
  ~QemuSnapshot() override {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }

  std::string file() const { return folder_ + "/migration"; }

  absl::Status Save() {
    std::vector<std::string> arguments = arguments_;
    const std::string path = folder_ + "/monitor";
    arguments.insert(arguments.end(), {"-monitor", "unix:" + path + ",server=on,wait=off"});
    ASSIGN_OR_RETURN(const auto machine, QemuProcess::Spawn(arguments, -1));
    RETURN_IF_ERROR(AwaitText(machine->output(), kTick, "QEMU's guest"));
    ASSIGN_OR_RETURN(const UniqueFd monitor, ConnectMonitor(path));
    RETURN_IF_ERROR(AwaitText(monitor.get(), "(qemu) ", "QEMU's monitor"));
    UniqueFd migration(open(file().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!migration) return ErrnoStatus(file());
    RETURN_IF_ERROR(
        SendWithFd(monitor.get(), "getfd out\nmigrate fd:out\ninfo migrate\n", migration.get()));
    // The guest goes on writing meanwhile, and must not be held up by a full pipe.
    return machine->DrainUntil(monitor.get(), "completed");
  }

  absl::StatusOr<std::unique_ptr<BootedMachine>> Restore(bool) override {
    UniqueFd migration(open(file().c_str(), O_RDONLY | O_CLOEXEC));
    if (!migration) return ErrnoStatus(file());
    std::vector<std::string> arguments = arguments_;
    arguments.insert(arguments.end(), {"-incoming", absl::StrCat("fd:", kIncomingFd)});
    const uint64_t start_ns = NowNs();
    ASSIGN_OR_RETURN(auto machine, QemuProcess::Spawn(arguments, migration.get()));
    RETURN_IF_ERROR(AwaitText(machine->output(), "", "QEMU's guest"));
    machine->sample["first_byte_ms"] = static_cast<double>(NowNs() - start_ns) / 1e6;
    return machine;
  }

 private:
  const std::unique_ptr<BootFiles> files_;
  const std::vector<std::string> arguments_;
  const std::string folder_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SavedGuest>> SaveQemu(const RestoreOptions& options) {
  std::string folder = (std::filesystem::temp_directory_path() / "hearth-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return ErrnoStatus(absl::StrCat("mkdtemp ", folder));
  ASSIGN_OR_RETURN(auto files, BootFiles::Create());
  std::vector<std::string> arguments = QemuArguments(options.machine, *files);
  *(std::find(arguments.begin(), arguments.end(), "-kernel") + 1) = options.kernel;
  arguments.insert(arguments.end(), {"-initrd", options.initrd, "-append", kTickingCommandLine});
  auto saved = std::make_unique<QemuSnapshot>(std::move(files), std::move(arguments), folder);
  RETURN_IF_ERROR(saved->Save());
  return saved;
}

}  // namespace hearth::bench
