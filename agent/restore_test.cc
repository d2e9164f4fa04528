// SPDX-License-Identifier: Apache-2.0
// Whole machines: a guest of hearth-vmm is saved while its agent is parked, and instances of it are
// restored. Needs a /dev/kvm that runs Linux: tests/testbed/run -- agent_restore_test.
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "agent/testing/guest_files.h"
#include "agent/testing/test_host.h"
#include "vmm/testing/snapshot_calls.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::agent {
namespace {

using agent::v1::Call;
using agent::v1::Reply;
using vmm::testing::PreparedRequest;
using vmm::testing::SavedMachineFiles;
using vmm::testing::VmmProcess;

constexpr int kPatienceMs = 120'000;
constexpr int kInstances = 5;

constexpr char kFunction[] = R"py(
import os, random, ssl, sys, tempfile, threading, time, uuid
from hearth_snapshot import after_restore, before_snapshot
random.seed(5)
ssl.RAND_bytes(1)
tempfile.mktemp()
armed, fired = 0, []
def ring():
  fired.append(time.monotonic() - armed)
@before_snapshot
def arm():
  global armed
  armed = time.monotonic()
  timer = threading.Timer(3, ring)
  timer.daemon = True
  timer.start()
@after_restore
def look():
  global woken
  woken = time.monotonic() - armed, len(fired), os.environ['INSTANCE']
def read(path):
  return open(path).read().strip()
def handler(event, context):
  draws = dict(boot=read('/proc/sys/kernel/random/boot_id'), host=os.uname().nodename,
               machine=read('/etc/machine-id'), kernel=os.getrandom(16).hex(), uuid=str(uuid.uuid4()),
               uuid1=str(uuid.uuid1()), ssl=ssl.RAND_bytes(16).hex(), random=random.random(),
               name=tempfile.mktemp(), instance=os.environ['INSTANCE'])
  while not fired:
    time.sleep(0.01)
  return dict(draws=draws, now=time.time(), fired=fired[0], woken=woken)
)py";

UniqueFd Open(const std::string& path, int flags = O_RDONLY) {
  UniqueFd file(open(path.c_str(), flags | O_CLOEXEC | O_CREAT, 0600));
  INFO(path);
  REQUIRE(file);
  return file;
}

template <typename Request>
void AddDevices(const GuestFiles& files, PreparedRequest* prepared, Request* request) {
  for (const auto& [serial, path] : files.disks()) {
    vmm::v1::Disk* const disk = request->add_disks();
    disk->set_fd(prepared->Add(Open(path)));
    disk->set_read_only(true);
    disk->set_serial(serial);
  }
  request->mutable_console()->set_fd(
      prepared->Add(Open(files.directory() + "/console", O_WRONLY | O_APPEND)));
  request->mutable_vsock()->set_guest_cid(3);
  request->mutable_vsock()->add_guest_ports(wire::kAgentHostPort);
}

// A machine and hearthd's connection to its agent.
struct Guest {
  explicit Guest(PreparedRequest prepared) {
    absl::StatusOr<VmmProcess> spawned = VmmProcess::Spawn(HEARTH_VMM);
    INFO(spawned.status().ToString());
    REQUIRE(spawned.ok());
    vmm = std::make_unique<VmmProcess>(*std::move(spawned));
    const bool boots = prepared.request.has_create();
    Do(std::move(prepared.request), std::move(prepared.fds));
    if (!boots) return;
    vmm::v1::Request start;
    start.mutable_start();
    Do(std::move(start));
  }
  void Do(vmm::v1::Request request, std::vector<UniqueFd> fds = {}) {
    const absl::Status status = vmm->Call(std::move(request), std::move(fds)).status();
    INFO(status.ToString());
    REQUIRE(status.ok());
  }
  // The connection that the agent makes.
  void Accept() {
    while (true) {
      absl::StatusOr<VmmProcess::Event> event = vmm->NextEvent(kPatienceMs);
      INFO(event.status().ToString());
      REQUIRE(event.ok());
      REQUIRE_FALSE(event->event.has_exited());
      if (!event->event.has_vsock_connection()) continue;
      host = std::make_unique<TestHost>(std::move(event->fds.at(0)));
      return;
    }
  }
  std::unique_ptr<VmmProcess> vmm;
  std::unique_ptr<TestHost> host;
};

SavedMachineFiles MakeSnapshot(const GuestFiles& files) {
  PreparedRequest prepared;
  vmm::v1::CreateMachine& create = *prepared.request.mutable_create();
  create.set_memory_mib(192);
  create.set_vcpu_count(1);
  create.set_kernel_fd(prepared.Add(Open(files.kernel())));
  create.set_entropy(true);
  create.set_command_line(
      // As hearthd's (control-plane/node/instance_boot.cc).
      "root=/dev/vda ro rootfstype=erofs init=/hearth-agent console=ttyS0 quiet loglevel=4 "
      "reboot=t panic=-1 random.trust_cpu=on tsc=reliable no_timer_check i8042.noaux i8042.nokbd "
      "hearth.transport=vsock");
  AddDevices(files, &prepared, &create);
  Guest guest(std::move(prepared));
  guest.Accept();
  REQUIRE_FALSE(guest.host->Call(GuestFiles::ConfigureCall({})).has_error());
  Call call;
  agent::v1::StartRuntime* const start = call.mutable_start_runtime();
  start->set_interface(agent::v1::StartRuntime::INTERFACE_RUNTIME_API);
  start->mutable_process()->add_arguments("/usr/bin/python3.11");
  start->mutable_process()->add_arguments("/var/runtime/bootstrap.py");
  start->set_handler("f.handler");
  start->set_snapshot(true);
  Reply reply = guest.host->Call(call);
  INFO(reply.DebugString());
  REQUIRE_FALSE(reply.runtime_started().has_error());
  call.mutable_prepare_snapshot()->set_hook_timeout_ms(kPatienceMs);
  reply = guest.host->Call(call);
  INFO(reply.DebugString());
  REQUIRE(reply.has_snapshot_prepared());
  REQUIRE_FALSE(reply.snapshot_prepared().has_error());
  vmm::v1::Request pause;
  pause.mutable_pause();
  guest.Do(std::move(pause));
  absl::StatusOr<SavedMachineFiles> saved = vmm::testing::SaveMachine(*guest.vmm);
  INFO(saved.status().ToString());
  REQUIRE(saved.ok());
  return *std::move(saved);
}

double NowSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

Reply RestoreInstance(Guest* guest, int number) {
  Call call;
  agent::v1::RestoreInstance* const restore = call.mutable_restore_instance();
  restore->set_instance_id(absl::StrCat("0192f4a0-0000-7abc-8def-01234567890", number));
  restore->set_hostname(absl::StrCat("host", number));
  std::string entropy(64, '\0');
  REQUIRE(getentropy(entropy.data(), entropy.size()) == 0);
  restore->set_entropy(entropy);
  restore->set_hook_timeout_ms(kPatienceMs);
  (*restore->mutable_environment())["INSTANCE"] = absl::StrCat(number);
  restore->set_wall_clock_unix_ns(static_cast<int64_t>(NowSeconds() * 1e9));
  return guest->host->Call(call);
}

TEST_CASE("restore: instances of one snapshot dial anew and share nothing that must be unique") {
  if (getenv("HEARTH_TESTBED") == nullptr) {
    WARN("SKIPPED: needs a /dev/kvm that runs Linux (tests/testbed/run)");
    return;
  }
  if (!GuestFiles::Possible()) return;
  const GuestFiles files({{"f.py", kFunction}}, "python3.11");
  const SavedMachineFiles saved = MakeSnapshot(files);
  std::map<std::string, std::set<std::string>> seen;
  vmm::v1::WorkingSet working_set;  // Of the first, up to its reply.
  for (int number = 0; number < kInstances; ++number) {
    PreparedRequest prepared = vmm::testing::MakeRestoreRequest(saved);
    AddDevices(files, &prepared, prepared.request.mutable_restore());
    prepared.request.mutable_restore()->set_resume(true);
    *prepared.request.mutable_restore()->mutable_working_set() = working_set;
    Guest guest(std::move(prepared));
    guest.Accept();
    seen["hello"].insert(guest.host->hello().boot_id());
    const Reply reply = RestoreInstance(&guest, number);
    INFO(reply.DebugString());
    REQUIRE(reply.has_instance_restored());
    REQUIRE_FALSE(reply.instance_restored().has_error());

    if (number == 0) {
      absl::StatusOr<vmm::v1::WorkingSet> used = vmm::testing::FetchWorkingSet(*guest.vmm);
      INFO(used.status().ToString());
      REQUIRE(used.ok());
      working_set = *std::move(used);
    }

    Call call;
    call.mutable_invoke()->set_invocation_id("1");
    call.mutable_invoke()->set_response_stream(guest.host->NewStream());
    REQUIRE(guest.host->Call(call).invocation_result().outcome() == agent::v1::OUTCOME_SUCCEEDED);
    const std::string text = guest.host->ReadAll(call.invoke().response_stream());
    const double now = NowSeconds();
    INFO(text);
    const nlohmann::json answer = nlohmann::json::parse(text, nullptr, false);
    REQUIRE(answer["draws"]["boot"] == reply.instance_restored().boot_id());
    REQUIRE(answer["draws"]["host"] == absl::StrCat("host", number));
    REQUIRE(answer["woken"][2] == absl::StrCat(number));
    for (const auto& [name, value] : answer["draws"].items()) seen[name].insert(value.dump());
    // A minute is far more than the emulation's slowness, and far less than a clock that is not
    // set.
    REQUIRE(std::abs(answer["now"].get<double>() - now) < 60);
    // Monotonic time stood still: nothing had fired yet, and the timer has run its three seconds.
    REQUIRE(answer["woken"][1] == 0);
    REQUIRE(answer["fired"].get<double>() >= 3);
  }
  for (const auto& [name, values] : seen) {
    INFO(name);
    REQUIRE(values.size() == (name == "hello" ? 1 : kInstances));
  }
}

}  // namespace
}  // namespace hearth::agent
