// SPDX-License-Identifier: Apache-2.0
// The agent where it belongs: PID 1 of a guest.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/testing/guest_vm.h"

namespace hearth::agent {
namespace {

using agent::v1::Call;
using agent::v1::InvocationResult;
using agent::v1::ProcessExit;
using agent::v1::Reply;
using Files = std::map<std::string, std::string>;

// Runs a shell script as user code; what it printed.
std::string Shell(GuestVm* vm, const std::string& script, ProcessExit* exit = nullptr) {
  TestHost& host = vm->host();
  Call call;
  agent::v1::ProcessSpec* const spec = call.mutable_start_process()->mutable_process();
  for (const char* argument : {"/bin/sh", "-c"}) spec->add_arguments(argument);
  spec->add_arguments(absl::StrCat("{\n", script, "\n} 2>&1"));
  spec->set_stdout_stream(host.NewStream());
  const Reply reply = host.Call(call);
  INFO(reply.error().message());
  REQUIRE(reply.has_process_started());
  const std::string output = host.ReadAll(spec->stdout_stream());
  Call wait;
  wait.mutable_wait_process()->set_process_id(reply.process_started().process_id());
  const Reply ended = host.Call(wait);
  REQUIRE(ended.has_process_exit());
  if (exit != nullptr) *exit = ended.process_exit();
  return output;
}

agent::v1::RuntimeStarted StartPython(GuestVm* vm, const std::string& handler) {
  Call call;
  agent::v1::StartRuntime* const start = call.mutable_start_runtime();
  start->set_interface(agent::v1::StartRuntime::INTERFACE_RUNTIME_API);
  start->mutable_process()->add_arguments("/usr/bin/python3.11");
  start->mutable_process()->add_arguments("/var/runtime/bootstrap.py");
  start->set_handler(handler);
  start->set_init_timeout_ms(60'000);
  const Reply reply = vm->host().Call(call);
  INFO(reply.error().message());
  REQUIRE(reply.has_runtime_started());
  return reply.runtime_started();
}

InvocationResult Invoke(GuestVm* vm, const std::string& id, const std::string& payload,
                        std::string* response, int64_t timeout_ms = 60'000,
                        const std::string& content_type = "", int64_t wall_clock_unix_ns = 0) {
  TestHost& host = vm->host();
  Call call;
  agent::v1::Invoke* const invoke = call.mutable_invoke();
  invoke->set_invocation_id(id);
  invoke->set_timeout_ms(timeout_ms);
  invoke->set_content_type(content_type);
  invoke->set_wall_clock_unix_ns(wall_clock_unix_ns);
  invoke->set_request_stream(host.NewStream());
  invoke->set_response_stream(host.NewStream());
  const uint64_t call_id = host.Send(call);
  host.Write(invoke->request_stream(), payload);
  const Reply reply = host.WaitReply(call_id);
  INFO(reply.error().message());
  REQUIRE(reply.has_invocation_result());
  *response = host.ReadAll(invoke->response_stream());
  return reply.invocation_result();
}

TEST_CASE("guest: user code finds its world, and nothing of the agent's") {
  if (!GuestVm::Possible()) return;
  GuestVm vm(Files{{"data", "of the function\n"}});
  agent::v1::ResourceLimits limits;
  limits.set_memory_bytes(100 << 20);
  limits.set_writable_bytes(20 << 20);
  limits.set_process_count(40);
  vm.Configure(limits);
  REQUIRE(Shell(&vm, "pwd; cat data") == "/var/task\nof the function\n");
  REQUIRE(Shell(&vm, "id -u; id -g; uname -n") == "993\n993\nhearth-test\n");
  REQUIRE(Shell(&vm, "set -- /proc/[0-9]*; echo $#; test -e /proc/1 || echo hidden") ==
          "1\nhidden\n");
  REQUIRE(Shell(&vm, "set -- /dev/*; echo $*") ==
          "/dev/fd /dev/full /dev/null /dev/random /dev/shm /dev/stderr /dev/stdin /dev/stdout "
          "/dev/urandom /dev/zero\n");
  REQUIRE(Shell(&vm, "for f in /var/task/x /x /dev/x /usr/x; do touch $f && echo wrote $f; done") ==
          "touch: cannot touch '/var/task/x': Read-only file system\n"
          "touch: cannot touch '/x': Permission denied\n"
          "touch: cannot touch '/dev/x': Read-only file system\n"
          "touch: cannot touch '/usr/x': Permission denied\n");
  REQUIRE(Shell(&vm,
                "echo a > /tmp/a; cat /tmp/a; echo b > /dev/shm/b; cat /dev/shm/b; "
                "ls /run /sys") == "a\nb\n/run:\n\n/sys:\n");
  REQUIRE(Shell(&vm,
                "python3.11 -c 'import socket\ntry: socket.socket(40, 1)\n"
                "except OSError as e: print(e.strerror)'") ==
          "Address family not supported by protocol\n");
  // No user namespaces, which would give it capabilities.
  REQUIRE(
      Shell(&vm, "python3.11 -c 'import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))'") ==
      "-1\n");
  // It can fill its disk, and no more than that.
  REQUIRE(Shell(&vm, "head -c 100000000 /dev/zero > /tmp/big").find("No space left") !=
          std::string::npos);
  REQUIRE(Shell(&vm, "rm /tmp/big; echo fine") == "fine\n");
}

TEST_CASE("guest: memory, processes and time are bounded, and the agent outlives it all") {
  if (!GuestVm::Possible()) return;
  GuestVm vm(Files{});
  agent::v1::ResourceLimits limits;
  limits.set_memory_bytes(64 << 20);
  limits.set_process_count(40);
  vm.Configure(limits);
  ProcessExit exit;
  Shell(&vm, "exec python3.11 -c 'x = bytearray(20_000_000); x[::4096] = x[::4096]'", &exit);
  REQUIRE(exit.reason() == ProcessExit::REASON_EXITED);
  REQUIRE(exit.usage().peak_memory_bytes() > 20'000'000);
  REQUIRE(exit.usage().peak_memory_bytes() < (64 << 20));
  Shell(&vm, "python3.11 -c 'x = bytearray(200_000_000)'; echo not reached", &exit);
  REQUIRE(exit.reason() == ProcessExit::REASON_OUT_OF_MEMORY);
  // More orphans than it may have processes, each of which ends at once: were they not reaped,
  // there would come a fork that fails for good.
  REQUIRE(Shell(&vm, R"(python3.11 -c '
import os, time
def fork():
    end = time.monotonic() + 30
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > end: raise
for _ in range(300):
    child = fork()
    if child == 0:
        fork()
        os._exit(0)
    os.waitpid(child, 0)
print("all")')") == "all\n");
  // A fork bomb: every fork after the limit fails, the rest dies with the program.
  const std::string bomb = Shell(&vm, "f() { f | f & wait; }; f; true", &exit);
  REQUIRE(bomb.find("fork") != std::string::npos);
  REQUIRE(Shell(&vm, "set -- /proc/[0-9]*; echo $#") == "1\n");
  REQUIRE(Shell(&vm, "sleep 1000 & (sleep 1000 &) ; echo x") == "x\n");

  Call shutdown;
  shutdown.mutable_shutdown();
  REQUIRE_FALSE(vm.host().Call(shutdown).has_error());
  vm.WaitForReset();
  REQUIRE(vm.Console().find("hearth-agent: shut down") != std::string::npos);
}

TEST_CASE("guest: a Python function is initialised, invoked warm, metered and killed in time") {
  if (!GuestVm::Possible()) return;
  GuestVm vm(
      Files{{"f.py",
             "import os\nprint('init')\n"
             "def handler(event, context):\n"
             " print('event', type(event).__name__)\n"
             " if isinstance(event, bytes): return event[::-1]\n"
             " if event == 'hog': x = bytearray(30_000_000); x[::4096] = x[::4096]\n"
             " if event == 'eat':\n  x = []\n  while True: x.append(bytearray(b'x' * 1_000_000))\n"
             " if event == 'hang':\n"
             "  while True: pass\n"
             " return event\n"}});
  agent::v1::ResourceLimits limits;
  limits.set_memory_bytes(128 << 20);
  vm.Configure(limits);
  const agent::v1::RuntimeStarted started = StartPython(&vm, "f.handler");
  INFO(started.error().message());
  REQUIRE_FALSE(started.has_error());
  REQUIRE(vm.host().Logs("") == "init\n");

  std::string response;
  InvocationResult result = Invoke(&vm, "1", "\"hog\"", &response);
  REQUIRE(response == "\"hog\"");
  const uint64_t hog_peak = result.usage().peak_memory_bytes();
  REQUIRE(hog_peak > 30'000'000);
  REQUIRE(vm.host().Logs("1") == "event str\n");
  // The group's peak is the hog's for ever; this invocation's is found without it.
  result = Invoke(&vm, "2", "1", &response);
  REQUIRE(result.usage().peak_memory_bytes() < hog_peak - 20'000'000);
  REQUIRE(result.usage().peak_memory_bytes() > 2'000'000);

  const std::string photo(5'000'000, 'p');
  result = Invoke(&vm, "3", photo + "!", &response, 60'000, "image/jpeg");
  REQUIRE(response == "!" + photo);
  REQUIRE(result.reusable());

  result = Invoke(&vm, "4", "\"hang\"", &response, 1000);
  REQUIRE(result.outcome() == agent::v1::OUTCOME_TIMED_OUT);
  // Without kvm-clock an emulated guest's clock may be as coarse as its ticks: only a long
  // invocation's times can be told from none.
  REQUIRE(result.usage().wall_ns() > 300'000'000);
  REQUIRE(result.usage().user_cpu_ns() > 100'000'000);
  REQUIRE_FALSE(StartPython(&vm, "f.handler").has_error());
  result = Invoke(&vm, "5", "\"eat\"", &response);
  REQUIRE(result.outcome() == agent::v1::OUTCOME_OUT_OF_MEMORY);
  REQUIRE(result.user_code_started());
}

// Over one connection, on which another host takes over, as a restored machine's does: a
// virtio-serial port does not break then. That a parked agent dials again where it does is tested
// on sockets (snapshot_test.cc), and over vsock where whole machines are restored.
TEST_CASE("guest: a restored instance has a new identity, and its user code stood still") {
  if (!GuestVm::Possible()) return;
  GuestVm vm(Files{
      {"f.py",
       "import os, random, ssl, tempfile, threading, time, uuid\n"
       "from hearth_snapshot import after_restore, before_snapshot\n"
       "hooks, ticks = [], 0\n"
       "def tick():\n global ticks\n while True:\n  ticks += 1; time.sleep(0.01)\n"
       "threading.Thread(target=tick, daemon=True).start()\n"
       "@before_snapshot\ndef before(): hooks.append('before')\n"
       "@after_restore\ndef after(): hooks.append('after ' + os.environ['SECRET'])\n"
       "def read(path): return open(path).read().strip()\n"
       "def handler(event, context):\n"
       " return dict(hooks=hooks, boot=read('/proc/sys/kernel/random/boot_id'), "
       "host=os.uname().nodename,\n"
       "  machine=read('/etc/machine-id'), now=int(time.time()), kernel=os.getrandom(8).hex(),\n"
       "  uuid=str(uuid.uuid4()), ssl=ssl.RAND_bytes(8).hex(), random=random.random(),\n"
       "  name=tempfile.mktemp(), mounts=read('/proc/self/mounts').count('boot_id'))\n"}});
  vm.Configure();
  REQUIRE_FALSE(StartPython(&vm, "f.handler").has_error());
  std::string text;
  Invoke(&vm, "1", "{}", &text);
  const nlohmann::json before = nlohmann::json::parse(text, nullptr, false);
  INFO(text);
  REQUIRE(before["boot"] == vm.host().hello().boot_id());
  REQUIRE(before["machine"].get<std::string>().size() == 32);
  REQUIRE(before["mounts"] == 1);

  Call call;
  call.mutable_prepare_snapshot()->set_hook_timeout_ms(60'000);
  Reply reply = vm.host().Call(call);
  INFO(reply.DebugString());
  REQUIRE(reply.has_snapshot_prepared());
  REQUIRE_FALSE(reply.snapshot_prepared().has_error());
  REQUIRE(reply.snapshot_prepared().usage().peak_memory_bytes() > 0);

  vm.TakeOver();
  REQUIRE(vm.host().hello().boot_id() == before["boot"]);
  agent::v1::RestoreInstance* const restore = call.mutable_restore_instance();
  restore->set_instance_id("0192f4a0-0000-7abc-8def-0123456789ab");
  restore->set_hostname("hearth-restored");
  restore->set_wall_clock_unix_ns(int64_t{1'900'000'000} * 1'000'000'000);
  restore->set_entropy(std::string(512, 'r'));
  (*restore->mutable_environment())["SECRET"] = "s";
  reply = vm.host().Call(call);
  INFO(reply.DebugString());
  REQUIRE(reply.has_instance_restored());
  REQUIRE_FALSE(reply.instance_restored().has_error());

  Invoke(&vm, "2", "{}", &text);
  const nlohmann::json after = nlohmann::json::parse(text, nullptr, false);
  INFO(text);
  REQUIRE(after["hooks"] == nlohmann::json::array({"before", "after s"}));
  REQUIRE(after["boot"] == reply.instance_restored().boot_id());
  REQUIRE(after["host"] == "hearth-restored");
  REQUIRE(after["machine"] == "0192f4a000007abc8def0123456789ab");
  REQUIRE(after["now"] >= 1'900'000'000);
  for (const char* drawn : {"boot", "kernel", "uuid", "ssl", "random", "name"}) {
    REQUIRE(after[drawn] != before[drawn]);
  }
  // After a pause its clock is put right, and never put back for a message that was late.
  const auto now_after = [&](int64_t seconds) {
    Invoke(&vm, "clock", "{}", &text, 60'000, "", seconds * 1'000'000'000);
    return nlohmann::json::parse(text, nullptr, false)["now"].get<int64_t>();
  };
  CHECK(now_after(1'950'000'000) / 100'000 == 19'500);
  CHECK(now_after(1'940'000'000) / 100'000 == 19'500);

  // A program that starts later sees the same.
  REQUIRE(Shell(&vm, "cat /proc/sys/kernel/random/boot_id /etc/machine-id; uname -n") ==
          absl::StrCat(reply.instance_restored().boot_id(),
                       "\n0192f4a000007abc8def0123456789ab\nhearth-restored\n"));
}

}  // namespace
}  // namespace hearth::agent
