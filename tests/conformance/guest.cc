// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/guest.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "agent/testing/guest_files.h"

namespace hearth::conformance {

using agent::v1::Call;
using agent::v1::Reply;
using control::Machine;

struct Guest::Ended {
  absl::Notification told;
  control::MachineExit exit;
};

namespace {

void RequireOk(const absl::Status& status) {
  INFO(status);
  REQUIRE(status.ok());
}

// The pipe's reading end does not block.
UniqueFd MakeConsole(UniqueFd* writer) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
  writer->reset(ends[1]);
  return UniqueFd(ends[0]);
}

Reply CallAgent(agent::TestHost& host, const Call& call) {
  Reply reply = host.Call(call);
  INFO(reply.DebugString());
  REQUIRE_FALSE(reply.has_error());
  return reply;
}

}  // namespace

SavedFiles::SavedFiles()
    : state(memfd_create("state", MFD_ALLOW_SEALING | MFD_CLOEXEC)),
      memory(memfd_create("memory", MFD_ALLOW_SEALING | MFD_CLOEXEC)) {
  REQUIRE((state && memory));
}

void SavedFiles::Seal() {
  for (const UniqueFd* file : {&state, &memory}) {
    REQUIRE(fcntl(file->get(), F_ADD_SEALS,
                  F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
  }
}

Guest::Guest(std::string id, std::unique_ptr<Machine> machine, UniqueFd console)
    : id_(std::move(id)),
      console_(std::move(console)),
      ended_(std::make_shared<Ended>()),
      machine_(std::move(machine)) {
  machine_->OnExit([ended = ended_](const control::MachineExit& exit) {
    ended->exit = exit;
    ended->told.Notify();
  });
}

std::unique_ptr<Guest> Guest::Create(control::MachineSpec spec) {
  UniqueFd console = MakeConsole(&spec.console);
  const std::string id = spec.id;
  auto machine = World::Get().backend().Create(std::move(spec));
  RequireOk(machine.status());
  return std::unique_ptr<Guest>(new Guest(id, *std::move(machine), std::move(console)));
}

std::unique_ptr<Guest> Guest::Boot(bool to_be_saved) {
  control::MachineSpec spec = World::Get().Spec();
  spec.to_be_saved = to_be_saved;
  std::unique_ptr<Guest> guest = Create(std::move(spec));
  RequireOk(guest->machine().Start());
  guest->Connect();
  guest->Configure();
  return guest;
}

control::RestoreSpec Guest::SpecOf(const SavedFiles& saved) {
  control::RestoreSpec spec;
  spec.id = World::Get().NewId();
  spec.memory_mib = kMemoryMib;
  spec.state = saved.state.get();
  spec.memory = saved.memory.get();
  spec.disks = World::Get().disks();
  spec.console.reset(open("/dev/null", O_WRONLY | O_CLOEXEC));
  return spec;
}

std::unique_ptr<Guest> Guest::Restore(const SavedFiles& saved) {
  control::RestoreSpec spec = SpecOf(saved);
  UniqueFd console = MakeConsole(&spec.console);
  const std::string id = spec.id;
  auto machine = World::Get().backend().Restore(std::move(spec));
  RequireOk(machine.status());
  std::unique_ptr<Guest> guest(new Guest(id, *std::move(machine), std::move(console)));
  guest->Connect();
  guest->TellIdentity();
  return guest;
}

void Guest::Connect() {
  host_.reset();
  absl::StatusOr<UniqueFd> stream = machine_->AcceptAgent(absl::Now() + kPatience);
  INFO("the console says: " << Console());
  RequireOk(stream.status());
  host_ = std::make_unique<agent::TestHost>(*std::move(stream));
}

void Guest::Configure() { CallAgent(*host_, agent::GuestFiles::ConfigureCall({})); }

void Guest::TellIdentity() {
  Call call;
  agent::v1::RestoreInstance& restore = *call.mutable_restore_instance();
  restore.set_instance_id(id_);
  restore.set_hostname("hearth-restored");
  restore.set_entropy(std::string(256, 'r'));
  restore.set_wall_clock_unix_ns(absl::ToUnixNanos(absl::Now()));
  const Reply reply = CallAgent(*host_, call);
  INFO(reply.DebugString());
  REQUIRE(reply.has_instance_restored());
  REQUIRE_FALSE(reply.instance_restored().has_error());
}

void Guest::Park() {
  Call start;
  start.mutable_start_runtime()->set_interface(agent::v1::StartRuntime::INTERFACE_STDIO);
  start.mutable_start_runtime()->mutable_process()->add_arguments("/bin/sh");
  const Reply started = CallAgent(*host_, start);
  INFO(started.DebugString());
  REQUIRE_FALSE(started.runtime_started().has_error());
  Call prepare;
  prepare.mutable_prepare_snapshot();
  REQUIRE(CallAgent(*host_, prepare).has_snapshot_prepared());
}

std::string Guest::Shell(const std::string& script) {
  Call call;
  agent::v1::ProcessSpec& process = *call.mutable_start_process()->mutable_process();
  for (const std::string& argument : {std::string("/bin/sh"), std::string("-c"), script}) {
    process.add_arguments(argument);
  }
  process.set_stdout_stream(host_->NewStream());
  const uint64_t started = CallAgent(*host_, call).process_started().process_id();
  std::string output = host_->ReadAll(process.stdout_stream());
  Call wait;
  wait.mutable_wait_process()->set_process_id(started);
  REQUIRE(CallAgent(*host_, wait).has_process_exit());
  return output;
}

void Guest::StartLoad() {
  Call call;
  agent::v1::ProcessSpec& process = *call.mutable_start_process()->mutable_process();
  for (const char* argument : {"/bin/sh", "-c", "while :; do :; done"}) {
    process.add_arguments(argument);
  }
  REQUIRE(CallAgent(*host_, call).has_process_started());
}

void Guest::ShutDown() {
  Call call;
  call.mutable_shutdown();
  CallAgent(*host_, call);
}

absl::Duration Guest::CpuTime() {
  const absl::StatusOr<absl::Duration> cpu = machine_->CpuTime();
  RequireOk(cpu.status());
  return *cpu;
}

control::MachineStatistics Guest::Statistics() {
  const absl::StatusOr<control::MachineStatistics> statistics = machine_->Statistics();
  RequireOk(statistics.status());
  return *statistics;
}

std::string Guest::Console() {
  std::array<char, 4096> piece;
  ssize_t got = 0;
  while ((got = read(console_.get(), piece.data(), piece.size())) > 0) {
    console_text_.append(piece.data(), static_cast<size_t>(got));
  }
  return console_text_;
}

control::MachineExit Guest::AwaitExit() {
  INFO("waiting for OnExit");
  REQUIRE(ended_->told.WaitForNotificationWithTimeout(kPatience));
  return ended_->exit;
}

void CheckGuestEnded(const control::MachineExit& exit) {
  using Reason = control::MachineExit::Reason;
  INFO(exit.detail);
  // Ours do it by a triple fault (reboot=t), which not every backend tells from a reset.
  CHECK((exit.reason == Reason::kGuestReset || exit.reason == Reason::kGuestFault));
}

bool Guest::ended() const { return ended_->told.HasBeenNotified(); }

}  // namespace hearth::conformance
