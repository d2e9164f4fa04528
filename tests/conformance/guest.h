// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "agent/testing/test_host.h"
#include "control-plane/backend/machine_backend.h"
#include "tests/conformance/world.h"
#include "vmm/base/unique_fd.h"

namespace hearth::conformance {

// A saved machine's files, sealed as the snapshot store seals them.
struct SavedFiles {
  SavedFiles();
  void Seal();
  UniqueFd state;
  UniqueFd memory;
};

// A machine with our kernel and agent in it. What goes wrong fails the test.
class Guest {
 public:
  // Made, not running.
  static std::unique_ptr<Guest> Create(control::MachineSpec spec = World::Get().Spec());
  // Running, its agent connected and configured.
  static std::unique_ptr<Guest> Boot(bool to_be_saved = false);
  // Running, its agent connected and told who it is.
  static std::unique_ptr<Guest> Restore(const SavedFiles& saved);
  // What Restore() asks of the backend; what its console says is lost.
  static control::RestoreSpec SpecOf(const SavedFiles& saved);

  control::Machine& machine() { return *machine_; }
  agent::TestHost& host() { return *host_; }
  const std::string& id() const { return id_; }

  // Waits for the agent's stream and its Hello. A former connection is closed first.
  void Connect();
  void Configure();
  // Of a guest that was parked.
  void TellIdentity();
  // As the agent has to be when its machine is saved.
  void Park();

  // Runs a script as user code and waits for its end; what it printed.
  std::string Shell(const std::string& script);
  // Starts user code that uses the processor for good.
  void StartLoad();
  // Asks the agent to end it all.
  void ShutDown();

  absl::Duration CpuTime();
  control::MachineStatistics Statistics();
  // What has come on the serial console so far.
  std::string Console();
  // Waits for OnExit.
  control::MachineExit AwaitExit();
  bool ended() const;

 private:
  struct Ended;

  Guest(std::string id, std::unique_ptr<control::Machine> machine, UniqueFd console);

  const std::string id_;
  const UniqueFd console_;
  std::string console_text_;
  // The callback may outlive the machine by a moment.
  const std::shared_ptr<Ended> ended_;
  std::unique_ptr<control::Machine> machine_;
  std::unique_ptr<agent::TestHost> host_;
};

// That a guest ended by its own will.
void CheckGuestEnded(const control::MachineExit& exit);

}  // namespace hearth::conformance
