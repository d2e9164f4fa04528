// SPDX-License-Identifier: Apache-2.0
#include "bench/restore.h"

#include "bench/restored_machines.h"

namespace hearth::bench {

absl::StatusOr<BootResults> RunRestore(const RestoreOptions& options,
                                       const std::function<void(const std::string&)>& progress) {
  BootResults results;
  results.benchmark = "restore";
  results.clock = MeasureClock();
  progress("hearth-vmm: boot and save");
  ASSIGN_OR_RETURN(const auto hearth, SaveHearth(options));
  std::vector<NamedBoot> machines;
  machines.emplace_back("fresh", [&] { return hearth->Restore(false); });
  machines.emplace_back("waiting", [&] { return hearth->Restore(true); });
  std::unique_ptr<SavedGuest> qemu;
  if (!options.machine.qemu.empty()) {
    progress("QEMU: boot and save");
    ASSIGN_OR_RETURN(qemu, SaveQemu(options));
    machines.emplace_back("qemu-restored", [&] { return qemu->Restore(false); });
  }
  RETURN_IF_ERROR(RunInTurns(machines, options.machine, progress, &results));
  return results;
}

}  // namespace hearth::bench
