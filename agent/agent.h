// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/api_runtime.h"
#include "agent/cgroup.h"
#include "agent/context.h"
#include "agent/host_connection.h"
#include "agent/machine.h"
#include "agent/process_service.h"
#include "agent/snapshot.h"
#include "agent/stdio_runtime.h"
#include "wire/mux.h"

namespace hearth::agent {

struct AgentOptions {
  HostConnectionOptions connection;
  std::string cgroup_path;  // Made here; holds all user code.
  uint16_t runtime_api_port = kRuntimeApiPort;
  std::string boot_id = {};
};

// Says Hello and answers the host's calls until the connection ends or Shutdown. While the instance
// is parked for a snapshot the connection may break: then the agent dials again.
class Agent : public HostConnectionOwner {
 public:
  // `machine` outlives the agent.
  static absl::StatusOr<std::unique_ptr<Agent>> Create(AgentOptions options, Machine* machine);
  ~Agent() override;

  // Serves until the end. OK after Shutdown, when nothing of user code runs any more and the reply
  // is written; else why the connection ended.
  absl::Status Run();

  void OnReady(const agent::v1::Hello& peer, uint32_t version) override;
  void OnCall(agent::v1::Call call) override;
  void OnStreamData(uint32_t stream_id, absl::string_view data) override;
  void OnStreamEnd(uint32_t stream_id, bool aborted, absl::string_view reason) override;
  void OnStreamWritable(uint32_t stream_id) override;

  std::string BootId() const override { return instance_.boot_id; }
  bool ExpectsBreak() const override { return snapshots_.parked() && !shutting_down_; }
  void OnNewMux(wire::Mux* mux) override { context_.mux = mux; }
  void OnWritten() override { FlushLogs(); }

 private:
  Agent(AgentOptions options, Machine* machine, std::unique_ptr<EventLoop> loop, Cgroup cgroup);
  void FlushLogs();
  void SendEvent(agent::v1::Event event);

  absl::Status Configure(const agent::v1::ConfigureInstance& configure);
  void HandleConfigure(uint64_t call_id, const agent::v1::ConfigureInstance& configure);
  void HandleStartRuntime(uint64_t call_id, const agent::v1::StartRuntime& start);
  void HandleInvoke(uint64_t call_id, const agent::v1::Invoke& invoke);
  void HandleCancel(uint64_t call_id, const agent::v1::CancelInvocation& cancel);
  void HandleShutdown(uint64_t call_id);

  Machine* const machine_;
  std::unique_ptr<EventLoop> loop_;
  const uint16_t runtime_api_port_;
  Cgroup cgroup_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<HostConnection> connection_;
  StreamHandlers streams_;
  LogBuffer logs_;
  std::deque<agent::v1::Event> events_;
  Instance instance_;
  Context context_;
  SnapshotService snapshots_;
  std::unique_ptr<ProcessService> processes_;
  std::unique_ptr<StdioRuntime> stdio_;
  std::unique_ptr<ApiRuntime> api_;
  bool shutting_down_ = false;
  bool shut_down_ = false;
};

}  // namespace hearth::agent
