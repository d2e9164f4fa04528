// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/machines.h"
#include "vmm/base/unique_fd.h"

namespace hearth::bench {

// A QEMU whose serial port is its standard output. Ended by force when destroyed.
class QemuProcess : public BootedMachine {
 public:
  // `extra_fd` is descriptor 3 of the process; -1: none.
  static absl::StatusOr<std::unique_ptr<QemuProcess>> Spawn(std::vector<std::string> arguments,
                                                            int extra_fd);
  ~QemuProcess() override;
  pid_t pid() const override { return pid_; }
  int output() const { return output_.get(); }

  // Reads and drops what the guest writes until `other` has shown `text`.
  absl::Status DrainUntil(int other, const std::string& text);

 private:
  QemuProcess(pid_t pid, UniqueFd output) : pid_(pid), output_(std::move(output)) {}

  const pid_t pid_;
  const UniqueFd output_;
};

}  // namespace hearth::bench
