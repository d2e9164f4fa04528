// SPDX-License-Identifier: Apache-2.0
// An instance's way into a snapshot and out of it, with real programs on this machine. The machine
// itself is not saved: to the agent a restore is a connection that breaks.
#include <catch2/catch.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/testing/function.h"

namespace hearth::agent {
namespace {

using agent::v1::Call;
using agent::v1::InstanceRestored;
using agent::v1::Reply;
using agent::v1::SnapshotPrepared;
using agent::v1::StartRuntime;

constexpr int32_t kFailedPrecondition = 9;
constexpr int32_t kInvalidArgument = 3;

Call PrepareCall(int64_t timeout_ms = 30'000) {
  Call call;
  call.mutable_prepare_snapshot()->set_hook_timeout_ms(timeout_ms);
  return call;
}

Call RestoreCall(size_t entropy_bytes = 64, int64_t timeout_ms = 30'000) {
  Call call;
  agent::v1::RestoreInstance* const restore = call.mutable_restore_instance();
  restore->set_instance_id("0192f4a0-0000-7abc-8def-0123456789ab");
  restore->set_hostname("restored");
  restore->set_entropy(std::string(entropy_bytes, 'e'));
  restore->set_hook_timeout_ms(timeout_ms);
  (*restore->mutable_environment())["SECRET"] = "of this instance";
  return call;
}

SnapshotPrepared Prepare(TestHost* host, int64_t timeout_ms = 30'000) {
  const Reply reply = host->Call(PrepareCall(timeout_ms));
  INFO(reply.error().message());
  REQUIRE(reply.has_snapshot_prepared());
  return reply.snapshot_prepared();
}

InstanceRestored Restore(TestHost* host, int64_t timeout_ms = 30'000) {
  const Reply reply = host->Call(RestoreCall(64, timeout_ms));
  INFO(reply.error().message());
  REQUIRE(reply.has_instance_restored());
  return reply.instance_restored();
}

bool Refused(TestHost* host, const Call& call, int32_t code = kFailedPrecondition) {
  const Reply reply = host->Call(call);
  INFO(reply.DebugString());
  return reply.error().code() == code;
}

// A Python function of this source.
struct PythonFunction {
  explicit PythonFunction(const std::string& source)
      : file(folder.Add("f.py", source)),
        function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path) {
    INFO(function.started.error().message());
    REQUIRE_FALSE(function.started.has_error());
  }
  Folder folder;
  std::string file;
  Function function;
};

constexpr char kBootId[] =
    "def boot_id(): return open('/proc/sys/kernel/random/boot_id').read().strip()\n";

TEST_CASE("snapshot: hooks, a new connection, and the instance is one of its own") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py", absl::StrCat(kBootId, R"(
import os
from hearth_snapshot import after_restore, before_snapshot
done = [boot_id()]
@before_snapshot
def before():
  done.append('before')
  print('closing', end='')
@after_restore
def after():
  done.append('after ' + os.environ['SECRET'])
  print('opening')
def handler(event, context):
  return done + [boot_id()]
)"));
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  INFO(function.started.error().message());
  REQUIRE_FALSE(function.started.has_error());
  const SnapshotPrepared prepared = Prepare(&function.host());
  REQUIRE_FALSE(prepared.has_error());
  REQUIRE(prepared.hooks_ns() > 0);
  REQUIRE(prepared.usage().wall_ns() > 0);
  // Before the reply, and without its newline.
  REQUIRE(function.host().Logs("") == "closing\n");
  REQUIRE(function.host().hello().boot_id() == "test-boot");

  function.agent.Reconnect();
  REQUIRE(function.host().hello().boot_id() == "test-boot");
  const InstanceRestored restored = Restore(&function.host());
  REQUIRE_FALSE(restored.has_error());
  REQUIRE(restored.boot_id().size() == 36);
  REQUIRE(restored.identity_ns() > 0);
  REQUIRE(restored.hooks_ns() > 0);
  const Invoked invoked = function.Invoke("1", "{}");
  REQUIRE(invoked.response == absl::StrCat(R"(["test-boot", "before", "after of this instance", ")",
                                           restored.boot_id(), R"("])"));
  REQUIRE(function.host().Logs("") == "opening\n");

  // The next snapshot is one more; its Hello tells what the instance was.
  REQUIRE_FALSE(Prepare(&function.host()).has_error());
  function.agent.Reconnect();
  REQUIRE(function.host().hello().boot_id() == restored.boot_id());
  REQUIRE(Restore(&function.host()).boot_id() != restored.boot_id());
  REQUIRE(function.Invoke("2", "{}").result.reusable());
}

TEST_CASE("snapshot: another host may take over the connection of a parked instance, no other's") {
  if (!TestAgent::Possible()) return;
  PythonFunction python("def handler(event, context):\n  return 'alive'\n");
  TestAgent& agent = python.function.agent;
  REQUIRE_FALSE(Prepare(&agent.host()).has_error());
  agent.TakeOver();
  agent.TakeOver();  // The first one's machine was saved again, say.
  REQUIRE(agent.host().hello().boot_id() == "test-boot");
  REQUIRE_FALSE(Restore(&agent.host()).has_error());
  REQUIRE(python.function.Invoke("1", "{}").response == "\"alive\"");
  // A second Hello is a breach again, and ends the agent.
  agent.host().SayHelloAgain();
  REQUIRE(agent.WaitForEnd() == 1);
}

TEST_CASE("snapshot: a parked instance runs nothing, and takes RestoreInstance and Shutdown only") {
  if (!TestAgent::Possible()) return;
  PythonFunction python(R"(
import threading, time
ticks = 0
def tick():
  global ticks
  while True:
    ticks += 1
    time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
def handler(event, context):
  return 'alive'
)");
  TestHost* host = &python.function.host();
  REQUIRE(Refused(host, RestoreCall()));
  REQUIRE_FALSE(Prepare(host).has_error());
  REQUIRE(python.function.agent.Frozen());
  REQUIRE(Refused(host, PrepareCall()));
  Call call;
  call.mutable_invoke()->set_invocation_id("x");
  REQUIRE(Refused(host, call));
  call.mutable_start_process()->mutable_process()->add_arguments("/bin/true");
  REQUIRE(Refused(host, call));
  call.mutable_configure_instance();
  REQUIRE(Refused(host, call));
  REQUIRE(Refused(host, RestoreCall(63), kInvalidArgument));
  REQUIRE(Refused(host, RestoreCall(513), kInvalidArgument));
  call = RestoreCall();
  call.mutable_restore_instance()->set_hostname("refused");
  REQUIRE(Refused(host, call, 13));  // What the machine cannot do leaves it parked.
  REQUIRE(python.function.agent.Frozen());

  python.function.agent.Reconnect();
  host = &python.function.host();
  call.mutable_wait_process();
  REQUIRE(Refused(host, call));
  // A host that breaks off again gets another connection.
  python.function.agent.Reconnect();
  host = &python.function.host();
  REQUIRE_FALSE(Restore(host).has_error());
  REQUIRE_FALSE(python.function.agent.Frozen());
  REQUIRE(Refused(host, RestoreCall()));
  REQUIRE(python.function.Invoke("1", "{}").response == "\"alive\"");

  REQUIRE_FALSE(Prepare(host).has_error());
  python.function.agent.Reconnect();
  call.mutable_shutdown();
  REQUIRE_FALSE(python.function.host().Call(call).has_error());
  REQUIRE(python.function.agent.WaitForEnd() == 0);
}

TEST_CASE("snapshot: not before the runtime, nor while an invocation or a process runs") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  REQUIRE(Refused(&agent.host(), PrepareCall()));
  agent.Configure();
  REQUIRE(Refused(&agent.host(), PrepareCall()));

  PythonFunction python("def handler(e, c):\n  while e: pass\n  return 1\n");
  TestHost& host = python.function.host();
  const Function::Pending pending = python.function.Send("1", "true");
  REQUIRE(Refused(&host, PrepareCall()));
  Call call;
  call.mutable_cancel_invocation()->set_invocation_id("1");
  REQUIRE_FALSE(host.Call(call).has_error());
  python.function.Finish(pending);
  // Its runtime was killed with it.
  REQUIRE(Refused(&host, PrepareCall()));
  REQUIRE_FALSE(python.function.Start().has_error());

  agent::v1::ProcessSpec* const spec = call.mutable_start_process()->mutable_process();
  spec->add_arguments("/bin/cat");
  spec->set_working_directory("/");
  spec->set_stdin_stream(host.NewStream());
  const Reply started = host.Call(call);
  REQUIRE(started.has_process_started());
  REQUIRE(Refused(&host, PrepareCall()));
  host.Write(call.start_process().process().stdin_stream(), "");
  call.mutable_wait_process()->set_process_id(started.process_started().process_id());
  REQUIRE(host.Call(call).has_process_exit());
  REQUIRE_FALSE(Prepare(&host).has_error());
}

TEST_CASE("snapshot: hooks that throw or never end fail it, before and after") {
  if (!TestAgent::Possible()) return;
  const auto source = [](const char* moment, const char* body) {
    return absl::StrCat("import hearth_snapshot, time, os\n@hearth_snapshot.", moment,
                        "\ndef hook():\n  ", body, "\ndef handler(e, c): return 1\n");
  };
  for (const auto& [body, type] :
       {std::pair{"raise ValueError('no')", "Runtime.BeforeSnapshotError"},
        std::pair{"while True: pass", "Runtime.BeforeSnapshotTimeout"},
        std::pair{"os._exit(3)", "Runtime.ExitError"}}) {
    PythonFunction python(source("before_snapshot", body));
    const SnapshotPrepared prepared =
        Prepare(&python.function.host(), body[0] == 'w' ? 300 : 30'000);
    REQUIRE(prepared.error().type() == type);
    // The instance is to be thrown away, but it is not parked.
    REQUIRE(Refused(&python.function.host(), RestoreCall()));
    REQUIRE(Refused(&python.function.host(), PrepareCall()));
  }
  for (const auto& [body, type] : {std::pair{"raise ValueError('no')", "Runtime.AfterRestoreError"},
                                   std::pair{"time.sleep(1000)", "Runtime.RestoreHookUserTimeout"},
                                   std::pair{"os._exit(3)", "Runtime.ExitError"}}) {
    PythonFunction python(source("after_restore", body));
    REQUIRE_FALSE(Prepare(&python.function.host()).has_error());
    python.function.agent.Reconnect();
    const InstanceRestored restored =
        Restore(&python.function.host(), body[0] == 't' ? 300 : 30'000);
    REQUIRE(restored.error().type() == type);
    REQUIRE(restored.boot_id().size() == 36);
    Call call;
    call.mutable_invoke()->set_invocation_id("x");
    REQUIRE(Refused(&python.function.host(), call));
  }
}

TEST_CASE("snapshot: a runtime that dies while it is parked is found at the restore") {
  if (!TestAgent::Possible()) return;
  PythonFunction python("def handler(e, c): return 1\n");
  REQUIRE_FALSE(Prepare(&python.function.host()).has_error());
  python.function.agent.KillUserCode();
  python.function.host().WaitFor([&] { return !python.function.host().events().empty(); });
  REQUIRE(python.function.host().events().back().has_runtime_exited());
  python.function.agent.Reconnect();
  REQUIRE(Restore(&python.function.host()).error().type() == "Runtime.ExitError");
}

TEST_CASE("snapshot: a connection that breaks is the end, unless the instance is parked") {
  if (!TestAgent::Possible()) return;
  PythonFunction serving("def handler(e, c): return 1\n");
  serving.function.agent.Break();
  REQUIRE(serving.function.agent.WaitForEnd() == 1);

  PythonFunction restored("def handler(e, c): return 1\n");
  REQUIRE_FALSE(Prepare(&restored.function.host()).has_error());
  restored.function.agent.Reconnect();
  REQUIRE_FALSE(Restore(&restored.function.host()).has_error());
  restored.function.agent.Break();
  REQUIRE(restored.function.agent.WaitForEnd() == 1);

  // Parked, and no one answers: it gives up after kMaxRedials dials.
  TestAgent alone(/*redials=*/0);
  alone.Configure();
  Call call;
  call.mutable_start_runtime()->set_interface(StartRuntime::INTERFACE_STDIO);
  call.mutable_start_runtime()->mutable_process()->add_arguments("/bin/true");
  REQUIRE_FALSE(alone.host().Call(call).runtime_started().has_error());
  REQUIRE_FALSE(Prepare(&alone.host()).has_error());
  alone.Break();
  REQUIRE(alone.WaitForEnd() == 1);
}

TEST_CASE("snapshot: programs on stdio have nothing to stop, and see the instance's environment") {
  if (!TestAgent::Possible()) return;
  Function function(StartRuntime::INTERFACE_STDIO,
                    {"/bin/sh", "-c", "echo $SECRET; cat /proc/sys/kernel/random/boot_id"});
  REQUIRE(function.Invoke("1", "").response == "\ntest-boot\n");
  REQUIRE_FALSE(Prepare(&function.host()).has_error());
  function.agent.Reconnect();
  const InstanceRestored restored = Restore(&function.host());
  REQUIRE_FALSE(restored.has_error());
  REQUIRE(function.Invoke("2", "").response ==
          absl::StrCat("of this instance\n", restored.boot_id(), "\n"));
}

// A runtime of its own that speaks no more than it must: with restore/next as Lambda's runtimes, or
// without.
constexpr char kCustom[] = R"py(#!/usr/bin/python3
import http.client, os, sys
api = os.environ['AWS_LAMBDA_RUNTIME_API']
base = '/2018-06-01/runtime/'
def call(method, path, body=None):
  connection = http.client.HTTPConnection(api)
  connection.request(method, base + path, body)
  answer = connection.getresponse()
  return answer, answer.read()
restored = b'no'
if os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'] == 'snap-start':
  answer, body = call('GET', 'restore/next')
  restored = b'%d %r' % (answer.status, body)
  if os.path.exists(os.path.join(os.environ['LAMBDA_TASK_ROOT'], 'fail')):
    call('POST', 'restore/error', '{"errorType": "Runtime.AfterRestoreError", "errorMessage": "no"}')
    sys.exit(1)
while True:
  answer, body = call('GET', 'invocation/next')
  call('POST', 'invocation/%s/response' % answer.headers['Lambda-Runtime-Aws-Request-Id'], restored)
)py";

TEST_CASE("snapshot: custom runtimes are parked in restore/next or in invocation/next") {
  if (!TestAgent::Possible()) return;
  for (const bool snap_start : {true, false}) {
    Folder folder;
    const std::string program = folder.Add("bootstrap", kCustom);
    Function function(StartRuntime::INTERFACE_RUNTIME_API, {program}, "", folder.path, 0, 10'000,
                      snap_start);
    REQUIRE_FALSE(function.started.has_error());
    REQUIRE_FALSE(Prepare(&function.host()).has_error());
    function.agent.Reconnect();
    REQUIRE_FALSE(Restore(&function.host()).has_error());
    REQUIRE(function.Invoke("1", "{}").response == (snap_start ? "200 b''" : "no"));
    REQUIRE(function.Invoke("2", "{}").result.reusable());
  }
}

TEST_CASE("snapshot: a runtime in restore/next is invoked without a snapshot as well") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  const std::string program = folder.Add("bootstrap", kCustom);
  const auto start = [&] {
    return std::make_unique<Function>(StartRuntime::INTERFACE_RUNTIME_API,
                                      std::vector<std::string>{program}, "", folder.path, 0, 10'000,
                                      true);
  };
  auto function = start();
  REQUIRE_FALSE(function->started.has_error());
  REQUIRE(function->Invoke("1", "{}").response == "200 b''");
  REQUIRE(function->Invoke("2", "{}").response == "200 b''");

  folder.Add("fail", "");
  function.reset();  // Before the next forks, which would hold its connection.
  function = start();
  const Invoked failed = function->Invoke("1", "{}");
  REQUIRE(failed.result.error().type() == "Runtime.AfterRestoreError");
  REQUIRE_FALSE(failed.result.reusable());
  REQUIRE_FALSE(failed.result.user_code_started());
}

}  // namespace
}  // namespace hearth::agent
