// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "agent/context.h"

namespace hearth::agent {

// The protocol's process primitive: StartProcess, SignalProcess, WaitProcess, GetProcessUsage.
class ProcessService {
 public:
  explicit ProcessService(const Context* context) : context_(context) {}
  ~ProcessService();

  void Start(uint64_t call_id, const agent::v1::StartProcess& start);
  void Signal(uint64_t call_id, const agent::v1::SignalProcess& signal);
  void Wait(uint64_t call_id, const agent::v1::WaitProcess& wait);
  void Usage(uint64_t call_id, const agent::v1::GetProcessUsage& usage);

 private:
  // The streams and logs of one process; it outlives the process until its output is sent.
  struct Io {
    std::unique_ptr<InputPump> input;
    std::unique_ptr<OutputPump> output;
    std::unique_ptr<OutputPump> error;
    std::unique_ptr<LogPump> output_log;
    std::unique_ptr<LogPump> error_log;
    std::vector<uint64_t> waiting_calls;
    bool ended = false;
    int open_outputs = 0;
  };
  void Attach(uint64_t token, const agent::v1::ProcessSpec& spec, ProcessPipes pipes);
  std::unique_ptr<OutputPump> MakeOutput(uint64_t token, uint32_t stream_id, UniqueFd pipe);
  void Ended(uint64_t token, const agent::v1::ProcessExit& exit);
  void ForgetLater(uint64_t token);

  const Context* const context_;
  std::map<uint64_t, Io> ios_;  // By the agent's process id.
  EventLoop::TimerId cleanup_ = 0;
};

}  // namespace hearth::agent
