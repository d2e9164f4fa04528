// SPDX-License-Identifier: Apache-2.0
// A guest that was saved, by hearth-vmm and by QEMU, to be restored any number of times.
#pragma once

#include <memory>

#include "bench/machines.h"
#include "bench/restore.h"

namespace hearth::bench {

// What the guest writes without end; it is saved once the console shows it.
inline constexpr char kTick[] = "tick";
inline constexpr char kTickingCommandLine[] = "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init";

class SavedGuest {
 public:
  virtual ~SavedGuest() = default;
  // Until the restored guest's first byte. `waiting`: into a process that was spawned before.
  virtual absl::StatusOr<std::unique_ptr<BootedMachine>> Restore(bool waiting) = 0;
};

absl::StatusOr<std::unique_ptr<SavedGuest>> SaveHearth(const RestoreOptions& options);
// Keeps a migration file in the temporary folder; `waiting` cannot be done.
absl::StatusOr<std::unique_ptr<SavedGuest>> SaveQemu(const RestoreOptions& options);

}  // namespace hearth::bench
