// SPDX-License-Identifier: Apache-2.0
// The parts of hearth-vmm-run: what it was asked to do, and doing it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/testing/snapshot_calls.h"

namespace hearth::vmm::testing {

struct RunArguments {
  std::string vmm, kernel, initrd, command_line;
  std::vector<std::string> disks;
  uint32_t memory_mib = 128;
  uint32_t vcpus = 1;
  uint32_t guest_cid = 0;
  uint32_t timeout_ms = 120'000;
  uint32_t repeat = 1;
  bool entropy = false;
  bool do_nothing = false;
  std::string snapshot_after;  // Save when the console shows this; then restore.
  std::string until;           // End a restored machine when its console shows this.
  bool waiting = false;        // Restore into processes that were spawned before.
};

absl::Status CreateMachine(VmmProcess& process, const RunArguments& arguments, int console);
// Boots, saves at the text, restores `repeat` times in fresh processes, the first time without a
// working set, then with what the first one used. Shows what each took.
absl::Status RunSnapshot(const RunArguments& arguments);

// Reads a machine's console.
class ConsoleReader {
 public:
  static absl::StatusOr<ConsoleReader> Create();
  // The end for the machine; ours is closed by CloseWriter().
  int writer() const { return write_end_.get(); }
  void CloseWriter() { write_end_.reset(); }
  // Copies what comes to standard output until `text` was there, DEADLINE_EXCEEDED; or the end of
  // the console, OUT_OF_RANGE. An empty text: until the first byte.
  absl::Status Await(const std::string& text, uint32_t timeout_ms);
  const std::string& seen() const { return seen_; }

 private:
  ConsoleReader(UniqueFd read_end, UniqueFd write_end)
      : read_end_(std::move(read_end)), write_end_(std::move(write_end)) {}

  UniqueFd read_end_, write_end_;
  std::string seen_;
};

}  // namespace hearth::vmm::testing
