// SPDX-License-Identifier: Apache-2.0
// QEMU's microvm machine, as lean as its options make it, for comparison.
#include <fstream>

#include "bench/clock.h"
#include "bench/console.h"
#include "bench/machines.h"
#include "bench/qemu_process.h"

namespace hearth::bench {
namespace {

constexpr char kMachine[] =
    "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off";

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
          kMachine,
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
  const uint64_t start_ns = NowNs();
  ASSIGN_OR_RETURN(auto machine, QemuProcess::Spawn(QemuArguments(options, files), -1));
  RETURN_IF_ERROR(AwaitText(machine->output(), "", "QEMU's guest"));
  machine->sample["first_byte_ms"] = static_cast<double>(NowNs() - start_ns) / 1e6;
  AddExits(&machine->sample);
  return machine;
}

}  // namespace hearth::bench
