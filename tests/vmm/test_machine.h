// SPDX-License-Identifier: Apache-2.0
// Machines in the test's own process.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/vmm/kvm_guard.h"
#include "vmm/base/event_loop.h"
#include "vmm/machine/machine.h"
#include "vmm/testing/tiny_guest.h"

namespace hearth::vmm::testing {

inline constexpr int kPatienceMs = 60'000;

// A memfd for a state or for memory.
inline UniqueFd EmptyMemfd() {
  UniqueFd fd(memfd_create("hearth-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(fd);
  return fd;
}

inline std::string ReadAll(int fd) {
  std::string bytes;
  char buffer[65536];
  ssize_t got;
  while ((got = pread(fd, buffer, sizeof(buffer), static_cast<off_t>(bytes.size()))) > 0) {
    bytes.append(buffer, static_cast<size_t>(got));
  }
  return bytes;
}

struct SavedFiles {
  std::string state;
  UniqueFd memory;  // Sealed.
};

// A machine of 4 MiB with an entropy device and vsock, and the loop that it lives on.
class TestMachine {
 public:
  explicit TestMachine(const std::string& kernel, uint32_t vcpus = 1) : TestMachine() {
    MachineConfig config;
    config.memory_mib = 4;
    config.vcpu_count = vcpus;
    config.kernel = MemoryFile(kernel);
    config.entropy = true;
    config.vsock = VsockConfig{3, {}};
    auto machine = Machine::Create(std::move(config), Options());
    INFO(machine.status().message());
    REQUIRE(machine.ok());
    machine_ = *std::move(machine);
  }
  explicit TestMachine(const SavedFiles& saved) : TestMachine() {
    const absl::Status status = TryRestore(saved.state, saved.memory.get());
    INFO(status.message());
    REQUIRE(status.ok());
  }
  // Without a machine: TryRestore() makes one.
  TestMachine() {
    auto loop = EventLoop::Create();
    REQUIRE(loop.ok());
    loop_ = *std::move(loop);
    auto system = System::Create(OpenKvm());
    REQUIRE(system.ok());
    system_ = *std::move(system);
  }
  ~TestMachine() { machine_.reset(); }

  absl::Status TryRestore(const std::string& state, int memory,
                          std::vector<PageRun> working_set = {}) {
    RestoreConfig config;
    config.working_set = std::move(working_set);
    ASSIGN_OR_RETURN(config.state, ParseMachineState(state));
    config.memory = UniqueFd(dup(memory));
    config.machine.memory_mib = config.state.memory_mib;
    config.machine.vcpu_count = static_cast<uint32_t>(config.state.vcpus.size());
    config.machine.entropy = DeviceSet::HadEntropy(config.state.devices);
    config.machine.vsock = VsockConfig{3, {}};
    ASSIGN_OR_RETURN(machine_, Machine::Restore(std::move(config), Options()));
    return absl::OkStatus();
  }

  Machine* operator->() { return machine_.get(); }
  void Destroy() { machine_.reset(); }

  SavedFiles Save() {
    SavedFiles saved;
    const UniqueFd state = EmptyMemfd();
    saved.memory = EmptyMemfd();
    const auto sizes = machine_->Save(state.get(), saved.memory.get());
    INFO(sizes.status().message());
    REQUIRE(sizes.ok());
    REQUIRE(fcntl(saved.memory.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) ==
            0);
    saved.state = ReadAll(state.get());
    REQUIRE(saved.state.size() == sizes->state_bytes);
    return saved;
  }

  ExitOutcome AwaitExit() {
    while (!outcome_.has_value()) REQUIRE(loop_->RunOnce(kPatienceMs).ok());
    return *outcome_;
  }
  void RunDueCallbacks() { REQUIRE(loop_->RunOnce(0).ok()); }
  uint32_t Word(uint32_t address) {
    return *machine_->memory().ReadValue<uint32_t>(GuestAddress(address));
  }
  uint32_t Counter() { return Word(kCounterAddress); }
  // Waits until the word is another than `before`; false when the machine ended instead.
  bool AwaitChange(uint32_t address, uint32_t before) {
    for (int i = 0; Word(address) == before; ++i) {
      if (i % 1024 != 0) continue;
      RunDueCallbacks();
      if (outcome_.has_value()) {
        WARN(outcome_->detail);
        return false;
      }
      sched_yield();
    }
    return true;
  }

 private:
  Machine::Options Options() {
    Machine::Options options;
    options.system = &*system_;
    options.loop = loop_.get();
    options.exited = [this](ExitOutcome outcome) { outcome_ = std::move(outcome); };
    return options;
  }

  std::unique_ptr<EventLoop> loop_;
  std::optional<System> system_;
  std::unique_ptr<Machine> machine_;
  std::optional<ExitOutcome> outcome_;
};

}  // namespace hearth::vmm::testing
