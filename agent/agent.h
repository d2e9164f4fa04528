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
#include "agent/machine.h"
#include "agent/process_service.h"
#include "agent/stdio_runtime.h"
#include "vmm/base/unique_fd.h"
#include "wire/mux.h"

namespace hearth::agent {

struct AgentOptions {
  UniqueFd connection;      // To the host; a stream in both directions.
  std::string cgroup_path;  // Made here; holds all user code.
  uint16_t runtime_api_port = kRuntimeApiPort;
  std::string boot_id = {};
};

// One connection's life: says Hello, answers the host's calls until the connection ends or
// Shutdown.
class Agent : public wire::MuxDelegate {
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

 private:
  Agent(AgentOptions options, Machine* machine, std::unique_ptr<EventLoop> loop, Cgroup cgroup);
  void ReadConnection();
  void WriteConnection();
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
  UniqueFd connection_;
  const uint16_t runtime_api_port_;
  Cgroup cgroup_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<wire::Mux> mux_;
  StreamHandlers streams_;
  LogBuffer logs_;
  std::deque<agent::v1::Event> events_;
  Instance instance_;
  Context context_;
  std::unique_ptr<ProcessService> processes_;
  std::unique_ptr<StdioRuntime> stdio_;
  std::unique_ptr<ApiRuntime> api_;
  bool shutting_down_ = false;
  bool shut_down_ = false;
  absl::Status ended_;
};

}  // namespace hearth::agent
