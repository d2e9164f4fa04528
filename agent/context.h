// SPDX-License-Identifier: Apache-2.0
// What the parts of the agent that answer calls share. Wired by Agent, which outlives them all.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/event_loop.h"
#include "agent/log_buffer.h"
#include "agent/pumps.h"
#include "agent/spawn.h"
#include "agent/supervisor.h"
#include "hearth/agent/v1/agent.pb.h"
#include "wire/mux.h"

namespace hearth::agent {

// Where the function's code is, in user code's root.
inline constexpr char kTaskRoot[] = "/var/task";
inline constexpr char kRuntimeDirectory[] = "/var/runtime";

// Who this instance is, from ConfigureInstance and RestoreInstance.
struct Instance {
  bool configured = false;
  std::string boot_id;  // What Hello tells.
  Sandbox sandbox;
  std::map<std::string, std::string> environment;
};

using EnvironmentMap = std::map<std::string, std::string>;

struct Context {
  EventLoop* loop = nullptr;
  wire::Mux* mux =
      nullptr;  // Another one after the connection was made anew; no stream is open then.
  Supervisor* supervisor = nullptr;
  StreamHandlers* streams = nullptr;
  LogBuffer* logs = nullptr;
  Instance* instance = nullptr;
  // Sends what log lines the connection takes, so that they come before a reply.
  std::function<void()> flush_logs;
  // Sends an event, later if the connection is full now.
  std::function<void(agent::v1::Event)> send_event;

  void Reply(const agent::v1::Reply& reply) const;
  void ReplyError(uint64_t call_id, const absl::Status& status) const;
};

// The spawn request of a process that the host described: the instance's environment, the
// process's, then `extra`, which wins. Its stdio is still to be filled in.
SpawnRequest MakeSpawnRequest(const Instance& instance, const agent::v1::ProcessSpec& process,
                              const EnvironmentMap& extra);

// A program's three descriptors, and the agent's ends of them.
struct ProcessPipes {
  std::array<UniqueFd, 3> theirs;
  UniqueFd input;   // Ours to write; invalid when stdin is /dev/null.
  UniqueFd output;  // Ours to read.
  UniqueFd error;
};
absl::StatusOr<ProcessPipes> MakeProcessPipes(bool with_input);

agent::v1::FunctionError MakeFunctionError(absl::string_view type, absl::string_view message);

// What the end of a process means to the function that it ran; `what` is "runtime" or "program".
// Of REASON_EXITED, only an unwanted exit is an error: the caller knows.
agent::v1::FunctionError ErrorOfExit(const agent::v1::ProcessExit& exit, absl::string_view what);
agent::v1::Outcome OutcomeOfExit(const agent::v1::ProcessExit& exit);

}  // namespace hearth::agent
