// SPDX-License-Identifier: Apache-2.0
// The machines that are measured: ours and QEMU's, with the same guest and matching devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/process_memory.h"
#include "bench/samples.h"
#include "vmm/base/status.h"

namespace hearth::bench {

inline constexpr uint32_t kGuestCid = 3;  // Of our VMM's vsock.

struct BootOptions {
  std::string vmm;     // hearth-vmm.
  std::string qemu;    // qemu-system-x86_64; empty: leave QEMU out.
  std::string images;  // An image store (its manifest.json's folder); empty: no agent runs.
  std::string runtime = "python3.11";  // Of the store, for the agent runs.
  int memory_mib = 128;
  int runs = 10;
  int warmup = 2;
};

// The files that every machine gets: a kernel that writes one byte to port 0x3f8 and halts, and two
// disks of 1 MiB. In a temporary folder, removed at the end.
class BootFiles {
 public:
  static absl::StatusOr<std::unique_ptr<BootFiles>> Create();
  ~BootFiles();
  BootFiles(const BootFiles&) = delete;
  BootFiles& operator=(const BootFiles&) = delete;

  std::string kernel() const { return folder_ + "/kernel"; }
  std::string read_only_disk() const { return folder_ + "/read-only"; }
  std::string writable_disk() const { return folder_ + "/writable"; }

 private:
  explicit BootFiles(std::string folder) : folder_(std::move(folder)) {}
  std::string folder_;
};

// A machine that has written its byte and is kept until this is destroyed.
class BootedMachine {
 public:
  virtual ~BootedMachine() = default;
  virtual pid_t pid() const = 0;
  // Stages, the time to the first byte ("first_byte_ms") and the count of KVM exits ("exits").
  Sample sample;
};

// From posix_spawn of hearth-vmm to the byte on the console's pipe, with two disks, entropy, vsock
// and console, the seccomp filters loaded.
absl::StatusOr<std::unique_ptr<BootedMachine>> BootHearth(const BootOptions& options,
                                                          const BootFiles& files);
// The same of `qemu -M microvm`, without vsock.
absl::StatusOr<std::unique_ptr<BootedMachine>> BootQemu(const BootOptions& options,
                                                        const BootFiles& files);
std::vector<std::string> QemuArguments(const BootOptions& options, const BootFiles& files);

// From posix_spawn to the first byte of the agent's Hello: a real kernel, the agent's disk and a
// runtime's.
absl::StatusOr<std::unique_ptr<BootedMachine>> BootAgent(const BootOptions& options);

}  // namespace hearth::bench
