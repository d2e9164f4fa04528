// SPDX-License-Identifier: Apache-2.0
// The process primitive, on this machine: an agent in a child process, real programs.
#include <signal.h>

#include <catch2/catch.hpp>
#include <string>

#include "agent/testing/test_host.h"

namespace hearth::agent {
namespace {

using agent::v1::Call;
using agent::v1::ProcessExit;
using agent::v1::Reply;

struct Program {
  uint64_t id = 0;
  uint32_t input = 0;
  uint32_t output = 0;
};

Call ShellCall(const std::string& script) {
  Call call;
  agent::v1::ProcessSpec* const spec = call.mutable_start_process()->mutable_process();
  for (const char* argument : {"/bin/sh", "-c"}) spec->add_arguments(argument);
  spec->add_arguments(script);
  spec->set_working_directory("/");
  spec->set_log_request_id("logs");
  return call;
}

// Starts `script` with streams for stdin and stdout.
Program Start(TestHost* host, const std::string& script, int64_t timeout_ms = 0) {
  Call call = ShellCall(script);
  Program program{.input = host->NewStream(), .output = host->NewStream()};
  agent::v1::ProcessSpec* const spec = call.mutable_start_process()->mutable_process();
  spec->set_stdin_stream(program.input);
  spec->set_stdout_stream(program.output);
  spec->set_timeout_ms(timeout_ms);
  const Reply reply = host->Call(call);
  INFO(reply.error().message());
  REQUIRE(reply.has_process_started());
  program.id = reply.process_started().process_id();
  return program;
}

ProcessExit Wait(TestHost* host, const Program& program) {
  Call call;
  call.mutable_wait_process()->set_process_id(program.id);
  const Reply reply = host->Call(call);
  INFO(reply.error().message());
  REQUIRE(reply.has_process_exit());
  return reply.process_exit();
}

std::string Output(TestHost* host, const std::string& script) {
  const Program program = Start(host, script);
  host->Write(program.input, "");
  return host->ReadAll(program.output);
}

TEST_CASE("process: stdin flows to stdout, more than any buffer on the way holds") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Program cat = Start(&agent.host(), "exec cat");
  std::string payload;
  for (int i = 0; payload.size() < 5'000'000; ++i) payload += std::to_string(i);
  agent.host().Write(cat.input, payload);
  REQUIRE(agent.host().ReadAll(cat.output) == payload);
  REQUIRE_FALSE(agent.host().aborted(cat.output));
  const ProcessExit exit = Wait(&agent.host(), cat);
  REQUIRE(exit.reason() == ProcessExit::REASON_EXITED);
  REQUIRE(exit.exit_code() == 0);
  REQUIRE(exit.usage().read_bytes() >= payload.size());
  REQUIRE(exit.usage().written_bytes() >= payload.size());
  REQUIRE(exit.usage().wall_ns() > 0);
  REQUIRE(exit.usage().user_cpu_ns() + exit.usage().system_cpu_ns() > 0);
}

TEST_CASE("process: exit status and signals are told apart") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  REQUIRE(Wait(&agent.host(), Start(&agent.host(), "exit 3")).exit_code() == 3);
  const ProcessExit killed = Wait(&agent.host(), Start(&agent.host(), "kill -TERM $$"));
  REQUIRE(killed.reason() == ProcessExit::REASON_SIGNALED);
  REQUIRE(killed.signal() == SIGTERM);
}

TEST_CASE("process: a program that does not exist is an error that names it") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  Call call = ShellCall("");
  call.mutable_start_process()->mutable_process()->set_arguments(0, "/no/such/program");
  const Reply reply = agent.host().Call(call);
  REQUIRE(reply.error().code() == 5);
  REQUIRE(reply.error().message() ==
          "cannot execute it: /no/such/program: No such file or directory");
}

TEST_CASE("process: SignalProcess reaches the program alone, whole_group everything") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Program trapping =
      Start(&agent.host(), "trap 'echo caught; exit 7' USR1; echo ready; read line");
  Call call;
  call.mutable_signal_process()->set_process_id(trapping.id);
  call.mutable_signal_process()->set_signal(SIGUSR1);
  // The trap is set when "ready" was printed; the first signal before that would end the shell.
  while (agent.host().Received(trapping.output) != "ready\n") agent.host().Step();
  REQUIRE_FALSE(agent.host().Call(call).has_error());
  REQUIRE(agent.host().ReadAll(trapping.output) == "ready\ncaught\n");
  REQUIRE(Wait(&agent.host(), trapping).exit_code() == 7);

  const Program family = Start(&agent.host(), "trap '' TERM; sleep 1000 & sleep 1000");
  call.mutable_signal_process()->set_process_id(family.id);
  call.mutable_signal_process()->set_whole_group(true);
  REQUIRE_FALSE(agent.host().Call(call).has_error());
  const ProcessExit exit = Wait(&agent.host(), family);
  REQUIRE(exit.reason() == ProcessExit::REASON_SIGNALED);
  REQUIRE(exit.signal() == SIGKILL);
}

TEST_CASE("process: at its deadline the whole group is killed, stragglers on stdout included") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Program slow = Start(&agent.host(), "setsid sleep 1000 & echo one; sleep 1000", 300);
  REQUIRE(agent.host().ReadAll(slow.output) == "one\n");
  REQUIRE(Wait(&agent.host(), slow).reason() == ProcessExit::REASON_TIMED_OUT);
}

TEST_CASE("process: what a program leaves behind dies with it, and its output ends") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  REQUIRE(Output(&agent.host(), "setsid sleep 1000 & (sleep 1000 &) ; echo done") == "done\n");
}

TEST_CASE("process: children that ended are in the figures") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Program program =
      Start(&agent.host(), "sh -c 'head -c 3000000 /dev/zero > /dev/null'; sh -c true");
  const ProcessExit exit = Wait(&agent.host(), program);
  REQUIRE(exit.usage().read_bytes() >= 3'000'000);
  REQUIRE(exit.usage().written_bytes() >= 3'000'000);
}

TEST_CASE("process: user code is not root, has no capabilities and sees no process but its own") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  TestHost* const host = &agent.host();
  REQUIRE(Output(host, "id -u; id -g; id -G") == "993\n993\n993\n");
  REQUIRE(
      Output(host,
             "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | grep -vc 0000000000000000") ==
      "0\n");
  REQUIRE(Output(host, "grep NoNewPrivs /proc/self/status") == "NoNewPrivs:\t1\n");
  REQUIRE(Output(host, "grep Seccomp: /proc/self/status") == "Seccomp:\t2\n");
  // hidepid: not even its own shim, PID 1 of the namespace.
  REQUIRE(Output(host, "set -- /proc/[0-9]*; echo $#; test -e /proc/1 || echo hidden") ==
          "1\nhidden\n");
  REQUIRE(Output(host, "kill -9 1 2>/dev/null || echo refused") == "refused\n");
  REQUIRE(Output(host, "ls /proc/self/fd | wc -l") == "4\n");  // 0, 1, 2 and ls's own.
}

TEST_CASE("process: user code sees its own cgroup as the root, and has no io_uring") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  TestHost* const host = &agent.host();
  REQUIRE(Output(host, "grep ^0:: /proc/self/cgroup") == "0::/\n");
  // io_uring_setup(2) itself would say EFAULT.
  constexpr char kCall[] =
      "python3 -c 'import ctypes; c = ctypes.CDLL(None, use_errno=True); "
      "print(c.syscall(425, 1, None), ctypes.get_errno())'";
  REQUIRE(Output(host, kCall) == "-1 38\n");
}

TEST_CASE("process: without streams what is printed becomes log lines with the request id") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Reply started = agent.host().Call(ShellCall("echo out; echo err >&2; printf tail"));
  REQUIRE(started.has_process_started());
  Wait(&agent.host(), {.id = started.process_started().process_id()});
  const std::string logs = agent.host().Logs("logs");
  REQUIRE(logs.find("out\n") != std::string::npos);
  REQUIRE(logs.find("err\n") != std::string::npos);
  REQUIRE(logs.find("tail\n") != std::string::npos);
}

TEST_CASE("process: a flood of log lines is bounded and what is lost is counted") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  const Reply started = agent.host().Call(ShellCall("seq 1 300000"));
  const uint64_t id = started.process_started().process_id();
  Wait(&agent.host(), {.id = id});
  uint64_t lines = 0;
  for (const agent::v1::Event& event : agent.host().events())
    lines += event.log_lines().lines_size();
  // What is left is sent after the reply.
  while (lines + agent.host().dropped_log_lines() < 300000) {
    agent.host().Step();
    lines = 0;
    for (const agent::v1::Event& event : agent.host().events()) {
      lines += event.log_lines().lines_size();
    }
  }
  REQUIRE(lines + agent.host().dropped_log_lines() == 300000);
}

TEST_CASE("process: nothing may come before ConfigureInstance, and that only once") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  REQUIRE(agent.host().Call(ShellCall("true")).error().message() ==
          "ConfigureInstance has to come first");
  agent.Configure();
  Call call;
  call.mutable_configure_instance();
  REQUIRE(agent.host().Call(call).error().code() == 9);
}

TEST_CASE("process: Shutdown kills what runs, answers and ends the agent") {
  if (!TestAgent::Possible()) return;
  TestAgent agent;
  agent.Configure();
  Start(&agent.host(), "sleep 1000");
  Call call;
  call.mutable_shutdown();
  REQUIRE_FALSE(agent.host().Call(call).has_error());
  REQUIRE(agent.WaitForEnd() == 0);
}

}  // namespace
}  // namespace hearth::agent
