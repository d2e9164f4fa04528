// SPDX-License-Identifier: Apache-2.0
#include "wire/mux_streams.h"

namespace hearth::wire {
namespace {

void Add(uint32_t id, bool to_agent, NamedStreams* named) {
  if (id != 0) named->streams[named->count++] = {.id = id, .to_agent = to_agent};
}

}  // namespace

NamedStreams StreamsOf(const agent::v1::Call& call) {
  NamedStreams named;
  if (call.has_start_process()) {
    const agent::v1::ProcessSpec& process = call.start_process().process();
    Add(process.stdin_stream(), true, &named);
    Add(process.stdout_stream(), false, &named);
    Add(process.stderr_stream(), false, &named);
  } else if (call.has_invoke()) {
    Add(call.invoke().request_stream(), true, &named);
    Add(call.invoke().response_stream(), false, &named);
  }
  return named;
}

bool ReplyFits(agent::v1::Call::CommandCase command, const agent::v1::Reply& reply) {
  using Call = agent::v1::Call;
  using Reply = agent::v1::Reply;
  if (reply.has_error()) return reply.result_case() == Reply::RESULT_NOT_SET;
  switch (command) {
    case Call::kConfigureInstance:
    case Call::kSignalProcess:
    case Call::kCancelInvocation:
    case Call::kShutdown:
      return reply.result_case() == Reply::RESULT_NOT_SET;
    case Call::kStartProcess:
      return reply.result_case() == Reply::kProcessStarted;
    case Call::kWaitProcess:
      return reply.result_case() == Reply::kProcessExit;
    case Call::kGetProcessUsage:
      return reply.result_case() == Reply::kProcessUsage;
    case Call::kStartRuntime:
      return reply.result_case() == Reply::kRuntimeStarted;
    case Call::kInvoke:
      return reply.result_case() == Reply::kInvocationResult;
    case Call::kPrepareSnapshot:
      return reply.result_case() == Reply::kSnapshotPrepared;
    case Call::kRestoreInstance:
      return reply.result_case() == Reply::kInstanceRestored;
    case Call::COMMAND_NOT_SET:
      return false;
  }
  return false;
}

}  // namespace hearth::wire
