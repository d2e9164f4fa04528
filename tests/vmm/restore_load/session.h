// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "tests/vmm/restore_load/protocol.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::vmm::testing {

// The host's side of one VMM process that runs the loaded guest: serves the guest's connections,
// has its own, and keeps the guest's reports. One thread.
class LoadSession {
 public:
  explicit LoadSession(VmmProcess vmm) : vmm_(std::move(vmm)) {}

  VmmProcess& vmm() { return vmm_; }
  // Until the guest has booted, which its first report says.
  absl::Status AwaitGuest(int patience_ms);
  // Opens the host's connections to the guest.
  absl::Status Connect();
  // Serves until the guest has made progress with each of its tasks since its first report here,
  // on connections that were opened here. An error when it did not in time, when a connection
  // ended, or when anything that came back was not what was sent.
  absl::Status AwaitProgress(int patience_ms);
  // Serves for so long, whatever the guest has come to by then.
  absl::Status Serve(int duration_ms);
  // Ends the guest; nothing but its reset may follow.
  absl::Status Finish(int patience_ms);

  const LoadReport& report() const { return *last_; }

 private:
  struct Stream {
    UniqueFd socket;
    std::string backlog;  // Read and not yet sent back (the guest's streams).
    uint64_t sent = 0;
    uint64_t received = 0;
  };

  template <typename Condition>
  absl::Status Await(Condition condition, int patience_ms);
  absl::Status Step(int timeout_ms);
  absl::Status TakeEvents();
  absl::Status Echo(Stream& stream);
  absl::Status Talk(Stream& stream);
  absl::Status ReadReports();
  bool HasProgressed() const;
  std::string Describe() const;

  VmmProcess vmm_;
  std::deque<Stream> guest_streams_;  // The guest connected: we echo.
  std::deque<Stream> host_streams_;   // We connected: the guest echoes.
  std::optional<Stream> reports_;
  std::optional<LoadReport> first_;
  std::optional<LoadReport> last_;
  bool finishing_ = false;
  std::optional<v1::Exited> exited_;
};

}  // namespace hearth::vmm::testing
