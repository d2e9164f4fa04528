// SPDX-License-Identifier: Apache-2.0
// Invocations on both interfaces, with real programs on this machine.
#include <catch2/catch.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/pumps.h"
#include "agent/testing/function.h"
#include "wire/limits.h"

namespace hearth::agent {
namespace {

using agent::v1::Call;
using agent::v1::InvocationResult;
using agent::v1::Reply;
using agent::v1::StartRuntime;

TEST_CASE(
    "stdio: the payload is stdin, the response stdout, stderr is logged with the request id") {
  if (!TestAgent::Possible()) return;
  Function function(StartRuntime::INTERFACE_STDIO,
                    {"/bin/sh", "-c", "echo $HEARTH_INVOCATION_ID >&2; exec tr a-z A-Z"});
  REQUIRE_FALSE(function.started.has_error());
  for (const std::string id : {"one", "two"}) {
    const Invoked invoked = function.Invoke(id, "payload of " + id);
    REQUIRE(invoked.result.outcome() == agent::v1::OUTCOME_SUCCEEDED);
    REQUIRE(invoked.result.reusable());
    REQUIRE(invoked.result.user_code_started());
    REQUIRE(invoked.response == (id == "one" ? "PAYLOAD OF ONE" : "PAYLOAD OF TWO"));
    REQUIRE(function.host().Logs(id) == id + "\n");
    REQUIRE(invoked.result.usage().wall_ns() > 0);
  }
}

TEST_CASE("stdio: a program that is missing or no program is found when the runtime starts") {
  if (!TestAgent::Possible()) return;
  Function missing(StartRuntime::INTERFACE_STDIO, {"/no/such"});
  REQUIRE(missing.started.error().type() == "Runtime.InvalidEntrypoint");
  REQUIRE(missing.started.error().message() == "/no/such does not exist");
  Function in_path(StartRuntime::INTERFACE_STDIO, {"no-such-command"});
  REQUIRE(in_path.started.error().message() == "no-such-command does not exist in PATH");
  Function not_executable(StartRuntime::INTERFACE_STDIO, {"/etc/passwd"});
  REQUIRE(not_executable.started.error().message() == "/etc/passwd may not be executed (chmod +x)");
  Function in_path_found(StartRuntime::INTERFACE_STDIO, {"cat"});
  REQUIRE_FALSE(in_path_found.started.has_error());
}

TEST_CASE("stdio: exit status, signal, deadline and size have outcomes of their own") {
  if (!TestAgent::Possible()) return;
  Function function(StartRuntime::INTERFACE_STDIO, {"/bin/sh", "-s"}, "", "/tmp", 1000);
  const Invoked failed = function.Invoke("a", "echo half; exit 5");
  REQUIRE(failed.result.outcome() == agent::v1::OUTCOME_FUNCTION_ERROR);
  REQUIRE(failed.result.error().type() == "Runtime.ExitError");
  REQUIRE(failed.result.error().exit_code() == 5);
  REQUIRE(failed.result.reusable());
  const Invoked killed = function.Invoke("b", "kill -SEGV $$");
  REQUIRE(killed.result.error().signal() == 11);
  const Invoked long_one = function.Invoke("c", "head -c 1001 /dev/zero; sleep 1000");
  REQUIRE(long_one.result.error().type() == "Function.ResponseSizeTooLarge");
  REQUIRE(function.Invoke("d", "head -c 1000 /dev/zero").response.size() == 1000);
  const Invoked slow = function.Invoke("e", "echo x; setsid sleep 1000 & sleep 1000", 300);
  REQUIRE(slow.result.outcome() == agent::v1::OUTCOME_TIMED_OUT);
  REQUIRE_FALSE(slow.result.reusable());
}

TEST_CASE("stdio: one invocation at a time, and a cancelled one ends") {
  if (!TestAgent::Possible()) return;
  Function function(StartRuntime::INTERFACE_STDIO, {"/bin/sh", "-c", "sleep 1000"});
  const Function::Pending pending = function.Send("long", "");
  Call second;
  second.mutable_invoke()->set_invocation_id("second");
  REQUIRE(function.host().Call(second).error().code() == 9);
  Call cancel;
  cancel.mutable_cancel_invocation()->set_invocation_id("other");
  REQUIRE(function.host().Call(cancel).error().code() == 5);
  cancel.mutable_cancel_invocation()->set_invocation_id("long");
  REQUIRE_FALSE(function.host().Call(cancel).has_error());
  const Invoked cancelled = function.Finish(pending);
  REQUIRE(cancelled.result.error().type() == "Runtime.Cancelled");
  REQUIRE_FALSE(cancelled.result.reusable());
}

TEST_CASE("agent: an invocation does not begin on a machine whose clock could not be put right") {
  if (!TestAgent::Possible()) return;
  Function function(StartRuntime::INTERFACE_STDIO, {"/bin/cat"});
  Call call;
  call.mutable_invoke()->set_invocation_id("1");
  call.mutable_invoke()->set_wall_clock_unix_ns(-1);
  REQUIRE(function.host().Call(call).error().message() == "the machine refuses");
  REQUIRE(function.Invoke("2", "on").response == "on");
}

TEST_CASE("runtime api: a Python handler answers, warm, with its own figures and logs") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add(
      "f.py",
      "n = 0\nprint('init')\n"
      "def handler(event, context):\n global n\n n += 1\n print('call', n)\n"
      " if isinstance(event, bytes): return event[::-1]\n return {'n': n, 'event': event}\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  INFO(function.started.error().message());
  REQUIRE_FALSE(function.started.has_error());
  REQUIRE(function.started.init_usage().user_cpu_ns() > 0);
  REQUIRE(function.host().Logs("") == "init\n");

  const Invoked first = function.Invoke("id-1", "{\"a\": 1}");
  INFO(first.result.error().message());
  REQUIRE(first.result.outcome() == agent::v1::OUTCOME_SUCCEEDED);
  REQUIRE(first.response == "{\"n\": 1, \"event\": {\"a\": 1}}");
  REQUIRE(first.result.content_type() == "application/json");
  REQUIRE(first.result.reusable());
  REQUIRE(function.host().Logs("id-1") == "call 1\n");

  std::string photo;
  while (photo.size() < 6'000'000) photo += "some bytes of a picture";
  const Invoked second = function.Invoke("id-2", photo, 30'000, "image/jpeg");
  REQUIRE(second.response == std::string(photo.rbegin(), photo.rend()));
  REQUIRE(second.result.content_type() == "application/octet-stream");
  REQUIRE(function.host().Logs("id-2") == "call 2\n");
  REQUIRE(function.Invoke("id-3", "3").response == "{\"n\": 3, \"event\": 3}");
}

TEST_CASE("runtime api: errors of a Python function arrive with type, message and trace") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py",
             "import os, sys\n"
             "def handler(event, context):\n"
             " if event == 'raise': raise ValueError('no \\udcff such')\n"
             " if event == 'exit': os._exit(9)\n"
             " if event == 'long': return b'x' * 7_000_000\n"
             " return event\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  const Invoked raised = function.Invoke("1", "\"raise\"");
  REQUIRE(raised.result.outcome() == agent::v1::OUTCOME_FUNCTION_ERROR);
  REQUIRE(raised.result.error().type() == "ValueError");
  REQUIRE(raised.result.error().stack_trace_size() == 1);
  REQUIRE(raised.result.reusable());
  const Invoked long_one = function.Invoke("2", "\"long\"");
  REQUIRE(long_one.result.error().type() == "Function.ResponseSizeTooLarge");
  REQUIRE(long_one.result.reusable());
  REQUIRE(function.Invoke("3", "\"fine\"").response == "\"fine\"");
  const Invoked exited = function.Invoke("4", "\"exit\"");
  REQUIRE(exited.result.error().type() == "Runtime.ExitError");
  REQUIRE(exited.result.error().exit_code() == 9);
  REQUIRE_FALSE(exited.result.reusable());
  REQUIRE(exited.result.user_code_started());
  // It is gone, so an invocation provably does not start; and it can be started again.
  Call call;
  call.mutable_invoke()->set_invocation_id("5");
  REQUIRE(function.host().Call(call).error().code() == 9);
  REQUIRE_FALSE(function.Start().has_error());
  REQUIRE(function.Invoke("6", "\"again\"").response == "\"again\"");
}

TEST_CASE("runtime api: a failed initialisation says why, and can be tried again") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py", "def handler(:\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  REQUIRE(function.started.error().type() == "Runtime.UserCodeSyntaxError");
  folder.Add("f.py", "def handler(event, context): return event\n");
  REQUIRE_FALSE(function.Start().has_error());
  REQUIRE(function.Invoke("1", "7").response == "7");

  Function missing(StartRuntime::INTERFACE_RUNTIME_API, {"/no/such"});
  REQUIRE(missing.started.error().type() == "Runtime.InvalidEntrypoint");
  Function exits(StartRuntime::INTERFACE_RUNTIME_API, {"/bin/sh", "-c", "exit 3"});
  REQUIRE(exits.started.error().type() == "Runtime.ExitError");
  REQUIRE(exits.started.error().exit_code() == 3);
  Function hangs(StartRuntime::INTERFACE_RUNTIME_API, {"/bin/sleep", "1000"}, "", "/tmp", 0, 300);
  REQUIRE(hangs.started.error().type() == "Runtime.InitTimeout");
}

TEST_CASE("runtime api: at its deadline everything is killed and the outcome says so") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py",
             "import os, time\ndef handler(event, context):\n"
             " if os.fork() == 0: os.setsid()\n"
             " while True: time.sleep(1000)\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  const Invoked slow = function.Invoke("1", "1", 500);
  REQUIRE(slow.result.outcome() == agent::v1::OUTCOME_TIMED_OUT);
  REQUIRE(slow.result.user_code_started());
  REQUIRE_FALSE(slow.result.reusable());
  REQUIRE(slow.result.usage().wall_ns() >= 450'000'000);
}

TEST_CASE("runtime api: a payload that never arrives whole reaches no user code") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py", "def handler(event, context): return 1\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  Call call;
  const uint32_t request = function.host().NewStream();
  const uint32_t response = function.host().NewStream();
  call.mutable_invoke()->set_invocation_id("1");
  call.mutable_invoke()->set_request_stream(request);
  call.mutable_invoke()->set_response_stream(response);
  const uint64_t id = function.host().Send(call);
  function.host().Write(request, "{\"half\":", /*end=*/false);
  function.host().mux().AbortStream(request, "the client left");
  const Invoked invoked = function.Finish({id, request, response});
  REQUIRE(invoked.result.error().type() == "Runtime.RequestAborted");
  REQUIRE_FALSE(invoked.result.user_code_started());
  REQUIRE(invoked.result.reusable());
  REQUIRE(function.Invoke("2", "1").response == "1");
}

TEST_CASE(
    "runtime api: an invocation whose payload is on its way when the runtime ends has not begun") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py", "def handler(event, context): return 1\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  REQUIRE(function.Invoke("1", "1").response == "1");
  Call call;
  const uint32_t request = function.host().NewStream();
  const uint32_t response = function.host().NewStream();
  call.mutable_invoke()->set_invocation_id("2");
  call.mutable_invoke()->set_request_stream(request);
  call.mutable_invoke()->set_response_stream(response);
  const uint64_t id = function.host().Send(call);
  function.host().Write(request, "{\"half\":", /*end=*/false);
  function.agent.KillUserCode();
  const Invoked invoked = function.Finish({id, request, response});
  REQUIRE(invoked.result.error().type() == "Runtime.ExitError");
  REQUIRE_FALSE(invoked.result.user_code_started());
  REQUIRE_FALSE(invoked.result.reusable());
  REQUIRE_FALSE(invoked.result.has_usage());
}

TEST_CASE("runtime api: a runtime that ends between invocations is reported") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py",
             "import os, threading, time\ndef end():\n time.sleep(0.2)\n os._exit(4)\n"
             "def handler(event, context):\n threading.Thread(target=end).start()\n return 1\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  REQUIRE(function.Invoke("1", "1").response == "1");
  const auto exited = [&]() -> const agent::v1::RuntimeExited* {
    for (const agent::v1::Event& event : function.host().events()) {
      if (event.has_runtime_exited()) return &event.runtime_exited();
    }
    return nullptr;
  };
  function.host().WaitFor([&] { return exited() != nullptr; });
  REQUIRE(exited()->exit().exit_code() == 4);
}

constexpr char kShellBootstrap[] = R"sh(#!/bin/bash
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation
while true; do
  event=$(curl -sS -D /tmp/headers.$$ "$api/next")
  id=$(grep -Fi Lambda-Runtime-Aws-Request-Id /tmp/headers.$$ | tr -d '\r' | cut -d' ' -f2)
  rm /tmp/headers.$$
  if [[ $event == fail ]]; then
    curl -sS "$api/$id/error" -H 'Lambda-Runtime-Function-Error-Type: Function.Refused' \
      -d '{"errorMessage":"no"}'
  elif [[ $event == stream ]]; then
    printf 'in %s' pieces | curl -sS "$api/$id/response" -H 'Transfer-Encoding: chunked' \
      -H 'Lambda-Runtime-Function-Response-Mode: streaming' -H 'Content-Type: text/plain' --data-binary @-
  elif [[ $event == long ]]; then
    head -c 7000000 /dev/zero | curl -sS "$api/$id/response" --data-binary @- >&2
    curl -sS "$api/$id/error" -d '{"errorMessage":"too long","errorType":"Mine"}'
  elif [[ $event == heedless ]]; then
    echo run
    head -c 7000000 /dev/zero | curl -sS -o /dev/null "$api/$id/response" --data-binary @-
  else
    wrong=$(curl -sS -o /dev/null -w '%{http_code}' "$api/wrong/response" -d x)
    curl -sS "$api/$id/response" -d "echo $event $wrong"
  fi
done
)sh";

TEST_CASE("runtime api: a bootstrap of a few lines of shell works unchanged") {
  if (!TestAgent::Possible()) return;
  if (system("command -v curl >/dev/null") != 0) {
    WARN("SKIPPED: needs curl");
    return;
  }
  Folder folder;
  const std::string bootstrap = folder.Add("bootstrap", kShellBootstrap);
  Function function(StartRuntime::INTERFACE_RUNTIME_API, {bootstrap}, "", folder.path);
  REQUIRE(function.Invoke("id-1", "hello").response == "echo hello 400");
  const Invoked failed = function.Invoke("id-2", "fail");
  REQUIRE(failed.result.error().type() == "Function.Refused");
  REQUIRE(failed.result.error().message() == "no");
  const Invoked streamed = function.Invoke("id-3", "stream");
  REQUIRE(streamed.response == "in pieces");
  REQUIRE(streamed.result.content_type() == "text/plain");
  const Invoked long_one = function.Invoke("id-4", "long");
  REQUIRE(long_one.result.error().type() == "Mine");
  REQUIRE(function.host().Logs("id-4").find("RequestEntityTooLarge") != std::string::npos);
  const Invoked heedless = function.Invoke("id-5", "heedless");
  REQUIRE(heedless.result.outcome() == agent::v1::OUTCOME_FUNCTION_ERROR);
  REQUIRE(heedless.result.error().type() == "Function.ResponseSizeTooLarge");
  REQUIRE(heedless.result.reusable());
  REQUIRE(function.host().Logs("id-5") == "run\n");
  REQUIRE(function.Invoke("id-6", "still here").response == "echo still here 400");
}

// Streams up to the limit, and over it in the same write with which it is told to pause.
constexpr char kStreamsTooMuch[] = R"py(#!/usr/bin/python3
import os, socket
host, port = os.environ['AWS_LAMBDA_RUNTIME_API'].split(':')
api, other = [socket.create_connection((host, int(port))) for _ in range(2)]
path = '/2018-06-01/runtime/invocation/'
def exchange(connection, data):
    connection.sendall(data)
    return connection.recv(65536)
def next_id():
    answer = exchange(api, f'GET {path}next HTTP/1.1\r\n\r\n'.encode()).decode().split('\r\n')
    return [line.split(': ')[1] for line in answer if line.startswith('Lambda-Runtime-Aws-Request-Id')][0]
chunk = b'400\r\n' + bytes(1024) + b'\r\n'
while True:
    api.sendall(f'POST {path}{next_id()}/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n'
                'Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n'.encode())
    api.sendall(511 * chunk)
    # Each answer here is of a turn in which 64 KiB were read there.
    for _ in range(20): exchange(other, b'GET / HTTP/1.1\r\n\r\n')
    print(exchange(api, 2 * chunk + b'0\r\n\r\n').split()[1].decode(), flush=True)
)py";

TEST_CASE("runtime api: a stream that goes over the limit while it is paused ends at once") {
  if (!TestAgent::Possible()) return;
  // The host's credit and what is held back before the runtime is paused.
  constexpr uint64_t kLimit = wire::kInitialStreamCreditBytes + ResponseSender::kPauseBytes;
  REQUIRE(kLimit == 512 * 1024);
  Folder folder;
  const std::string bootstrap = folder.Add("bootstrap", kStreamsTooMuch);
  Function function(StartRuntime::INTERFACE_RUNTIME_API, {bootstrap}, "", folder.path, kLimit);
  REQUIRE_FALSE(function.started.has_error());
  function.host().WithholdCredit();
  const Invoked invoked = function.Invoke("1", "");
  REQUIRE(invoked.result.error().type() == "Function.ResponseSizeTooLarge");
  REQUIRE(invoked.result.reusable());
  REQUIRE(function.host().Logs("1") == "202\n");
}

TEST_CASE("runtime api: a busy invocation is charged, the idle one after it is not") {
  if (!TestAgent::Possible()) return;
  Folder folder;
  folder.Add("f.py",
             "def handler(event, context):\n"
             " if event: sum(i * i for i in range(3_000_000)); open('/dev/null', 'wb').write(b'x' "
             "* 500_000)\n");
  Function function(StartRuntime::INTERFACE_RUNTIME_API, Python(), "f.handler", folder.path);
  const agent::v1::ProcessUsage busy = function.Invoke("1", "1").result.usage();
  const agent::v1::ProcessUsage idle = function.Invoke("2", "0").result.usage();
  REQUIRE(busy.user_cpu_ns() + busy.system_cpu_ns() >
          5 * (idle.user_cpu_ns() + idle.system_cpu_ns()));
  REQUIRE(busy.written_bytes() >= 500'000);
  REQUIRE(idle.written_bytes() < 100'000);
}

}  // namespace
}  // namespace hearth::agent
