// SPDX-License-Identifier: Apache-2.0
// QEMU's microvm machine, as lean as its options make it, for comparison.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>

#include "bench/clock.h"
#include "bench/machines.h"
#include "vmm/base/unique_fd.h"

namespace hearth::bench {
namespace {

constexpr int kBootTimeoutMs = 120'000;

class QemuMachine : public BootedMachine {
 public:
  QemuMachine(pid_t pid, UniqueFd output) : pid_(pid), output_(std::move(output)) {}
  ~QemuMachine() override {
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  pid_t pid() const override { return pid_; }
  int output() const { return output_.get(); }

 private:
  const pid_t pid_;
  const UniqueFd output_;
};

// All machines' exits together, as debugfs sums them up; nothing where it is not mounted.
void AddExits(Sample* sample) {
  std::ifstream file("/sys/kernel/debug/kvm/exits");
  double exits = 0;
  if (file >> exits) (*sample)["exits"] = exits;
}

}  // namespace

std::vector<std::string> QemuArguments(const BootOptions& options, const BootFiles& files) {
  // Everything that can be left out is: no ACPI (which selects the small firmware, qboot), no
  // PIT, PIC or RTC, no default devices, no configuration files, no monitor, no vsock (vhost's
  // would be one more device).
  return {options.qemu,
          "-M",
          "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on,"
          "auto-kernel-cmdline=off",
          "-cpu",
          "host",
          "-smp",
          "1",
          "-m",
          std::to_string(options.memory_mib),
          "-nodefaults",
          "-no-user-config",
          "-display",
          "none",
          "-serial",
          "stdio",
          "-kernel",
          files.kernel(),
          "-drive",
          "if=none,id=a,format=raw,readonly=on,file=" + files.read_only_disk(),
          "-device",
          "virtio-blk-device,drive=a",
          "-drive",
          "if=none,id=b,format=raw,file.locking=off,file=" + files.writable_disk(),
          "-device",
          "virtio-blk-device,drive=b",
          "-device",
          "virtio-rng-device"};
}

absl::StatusOr<std::unique_ptr<BootedMachine>> BootQemu(const BootOptions& options,
                                                        const BootFiles& files) {
  std::vector<std::string> arguments = QemuArguments(options, files);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  const uint64_t start_ns = NowNs();
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("spawning ", options.qemu));
  writer.reset();
  auto machine = std::make_unique<QemuMachine>(pid, std::move(reader));
  pollfd entry{machine->output(), POLLIN, 0};
  char byte = 0;
  if (poll(&entry, 1, kBootTimeoutMs) != 1 || read(machine->output(), &byte, 1) != 1) {
    return absl::DataLossError("QEMU's guest wrote no byte; what QEMU said is above");
  }
  machine->sample["first_byte_ms"] = static_cast<double>(NowNs() - start_ns) / 1e6;
  AddExits(&machine->sample);
  return machine;
}

}  // namespace hearth::bench
