// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "agent/context.h"

namespace hearth::agent {

// The stdio interface: a process for each invocation, the payload to its stdin, its stdout is the
// response, its stderr log lines. An exit status other than 0 is a FUNCTION_ERROR. User code sees
// HEARTH_INVOCATION_ID, HEARTH_DEADLINE_MS (epoch) and HEARTH_CONTENT_TYPE.
class StdioRuntime {
 public:
  explicit StdioRuntime(const Context* context) : context_(context) {}

  // Remembers the program, after a check that it exists and can be executed.
  void Start(uint64_t call_id, const agent::v1::StartRuntime& start);
  void Invoke(uint64_t call_id, const agent::v1::Invoke& invoke);
  // Started, and no invocation runs.
  bool idle() const { return started_ && invocation_ == nullptr; }
  // False when no such invocation runs.
  bool Cancel(const std::string& invocation_id);

 private:
  struct Invocation {
    uint64_t call_id = 0;
    std::string id;
    uint32_t response_stream = 0;
    Process* process = nullptr;
    std::unique_ptr<InputPump> input;
    std::unique_ptr<OutputPump> output;
    std::unique_ptr<LogPump> error_log;
    std::unique_ptr<LogPump> output_log;  // When the host wants no response.
    agent::v1::InvocationResult result;
    bool cancelled = false;
    bool too_long = false;
    bool output_ended = false;
    bool process_ended = false;
  };
  void Attach(const agent::v1::Invoke& invoke, ProcessPipes pipes);
  void OutputEnded(OutputPump::End end);
  void ProcessEnded(const agent::v1::ProcessExit& exit);
  void FinishWhenDone();

  const Context* const context_;
  agent::v1::StartRuntime start_;
  bool started_ = false;
  std::unique_ptr<Invocation> invocation_;
  std::unique_ptr<Invocation> finished_;  // Kept until the next: its pumps may be on the stack.
};

// Whether `program`, as user code sees it from `sandbox.root`, can be executed by it; looked up in
// `path_variable` when it has no slash. NOT_FOUND or PERMISSION_DENIED otherwise.
absl::Status CheckExecutable(const Sandbox& sandbox, absl::string_view program,
                             absl::string_view path_variable);

}  // namespace hearth::agent
