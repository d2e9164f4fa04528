// SPDX-License-Identifier: Apache-2.0
// Machines for tests: each is a thread that speaks the agent's protocol over a socket pair, as well
// or as badly as its script says.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/backend/machine_backend.h"
#include "hearth/agent/v1/agent.pb.h"
#include "wire/handshake.h"
#include "wire/limits.h"
#include "wire/mux.h"

namespace hearth::control {

class FakeAgent;

// What an invocation is answered with.
struct FakeAnswer {
  std::string response;
  agent::v1::InvocationResult result;
  bool end_response = true;
  bool never = false;             // Keeps silent.
  bool close_after_half = false;  // Sends half of the response, then closes the connection.
};

struct FakeScript {
  wire::VersionRange versions = {wire::kAgentMinVersion, wire::kAgentMaxVersion};
  std::string instead_of_hello;  // Raw bytes, then silence.
  bool never_connects = false;
  bool answers_configure = true;
  bool answers_init = true;
  bool answers_cancel = true;
  bool cancelled_had_started = true;  // As it says of user code then.
  bool stops_reading_at_invoke = false;
  bool exits_when_idle = false;  // Says so after each invocation.
  agent::v1::RuntimeStarted started;
  bool answers_prepare = true;
  bool answers_restore = true;
  agent::v1::SnapshotPrepared prepared;
  agent::v1::InstanceRestored restored;  // Its boot id is made up unless it is set.
  // Called with each ConfigureInstance, StartRuntime, RestoreInstance.
  std::function<void(const agent::v1::ConfigureInstance&)> on_configure;
  std::function<void(const agent::v1::StartRuntime&)> on_start;
  std::function<void(const agent::v1::RestoreInstance&)> on_restore;
  // Called when the whole payload is there. Default: echoes it.
  std::function<FakeAnswer(const agent::v1::Invoke&, const std::string& payload)> invoke;
  // Called when an invocation arrives, before its payload; may write raw bytes or events.
  std::function<void(FakeAgent&, const agent::v1::Invoke&)> on_invoke;
  // Called when an invocation's answer has left; may write raw bytes, or hang up.
  std::function<void(FakeAgent&)> on_idle;
};

// Counters and switches that outlive the machines.
struct FakeWorld {
  std::atomic<int> created{0};
  std::atomic<int> alive{0};
  std::atomic<int> most_alive{0};
  std::atomic<int> pauses{0};
  std::atomic<int> resumes{0};
  std::atomic<bool> create_fails{false};
  std::atomic<bool> resume_fails{false};
  std::atomic<int> booted{0};  // Of those created.
  std::atomic<int> restored{0};
  std::atomic<int> saved{0};
  std::atomic<int> working_sets{0};
  std::atomic<size_t> waiting{0};
  std::atomic<bool> save_fails{false};
  std::atomic<bool> clones{true};
  std::atomic<bool> ends_untold{false};  // Whose CPU time is asked for is gone, and that not told.
  std::atomic<bool> vmms_wait{false};    // Machines say that their VMMs did.
  std::atomic<const char*> vmm_version{""};
  std::atomic<int> failing_restores{0};  // So many of the next ones fail, with `restore_error`.
  std::atomic<absl::StatusCode> restore_error{absl::StatusCode::kUnavailable};
  // Called when a machine is made, restored, before it is there.
  std::function<void(const MachineSpec&)> on_create;
  std::function<void(const RestoreSpec&)> on_restore;
  // Called when a machine is asked for its working set.
  std::function<void()> on_working_set;
};

class FakeBackend final : public MachineBackend {
 public:
  FakeBackend(FakeScript script, std::shared_ptr<FakeWorld> world)
      : script_(std::move(script)), world_(std::move(world)) {}
  absl::StatusOr<std::unique_ptr<Machine>> Create(MachineSpec spec) override;
  absl::StatusOr<std::unique_ptr<Machine>> Restore(RestoreSpec spec) override;
  void SetWaiting(size_t count) override { world_->waiting = count; }
  absl::StatusOr<std::string> VmmVersion() override { return world_->vmm_version.load(); }
  BackendCapabilities capabilities() const override {
    return {.name = "fake", .clones = world_->clones, .hot_restore = true};
  }

 private:
  const FakeScript script_;
  const std::shared_ptr<FakeWorld> world_;
};

// The agent's side of a connection, on a thread of its own.
class FakeAgent final : private wire::MuxDelegate {
 public:
  FakeAgent(const FakeScript& script, std::string boot_id, UniqueFd stream, UniqueFd wake);
  void Run();
  void SendEvent(agent::v1::Event event) { mux_.SendEvent(event).IgnoreError(); }
  void SendRaw(const std::string& bytes);
  // Closes the connection and waits for the machine's end.
  void HangUp();

 private:
  struct Invocation {
    uint64_t call_id = 0;
    agent::v1::Invoke invoke;
    std::string payload;
    std::string response;
    FakeAnswer answer;
    bool answering = false;
  };
  void OnReady(const agent::v1::Hello& peer, uint32_t version) override;
  void OnCall(agent::v1::Call call) override;
  void OnStreamData(uint32_t stream_id, absl::string_view data) override;
  void OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) override;
  void OnStreamWritable(uint32_t stream_id) override;
  void Answer();
  void Reply(uint64_t id);

  const FakeScript& script_;
  UniqueFd stream_;
  UniqueFd wake_;
  wire::Mux mux_;
  Invocation current_;
  bool reading_ = true;
  bool answered_ = false;
  bool hung_up_ = false;
  bool closing_ = false;
};

}  // namespace hearth::control
