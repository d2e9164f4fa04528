// SPDX-License-Identifier: Apache-2.0
// A LocalNode with the real launcher, hearth-vmm, kernel, agent and Python: for a machine whose KVM
// boots Linux, such as the testbed. $HEARTH_IMAGES is the image store.
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "control-plane/backend/kvm/kvm_backend.h"
#include "control-plane/images/image_store.h"
#include "control-plane/node/local_node.h"
#include "control-plane/node/testing/node_fixture.h"
#include "tests/node/launcher_fixture.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {
namespace {

constexpr char kHandlers[] = R"(
import os, sys, time
served = 0
def echo(event, context):
    global served
    served += 1
    print("serving", served)
    return {"event": event, "served": served, "uid": os.getuid(), "env": os.environ.get("FLAVOUR")}
def fail(event, context):
    raise KeyError("the handler's own")
def sleep(event, context):
    time.sleep(3600)
def nap(event, context):
    t = time.monotonic()
    time.sleep(0.5)
    return time.monotonic() - t
def leave(event, context):
    os._exit(3)
)";

bool CanRun() {
  if (getenv("HEARTH_IMAGES") != nullptr && geteuid() == 0) return true;
  std::printf("SKIPPED: needs root, a KVM that boots Linux, and HEARTH_IMAGES\n");
  return false;
}

class GuestNode final : public NodeObserver {
 public:
  GuestNode() : launcher_(HEARTH_VMM_BINARY, {"--cgroup=hearth-test"}) {
    images_ = *ImageStore::Load(getenv("HEARTH_IMAGES"), &verified_);
    std::filesystem::create_directory(folder_.path() + "/code");
    std::ofstream(folder_.path() + "/code/handlers.py") << kHandlers;
    REQUIRE(system(absl::StrCat("mkfs.erofs -T0 --all-root ", folder_.path(), "/code.erofs ",
                                folder_.path(), "/code >/dev/null 2>&1")
                       .c_str()) == 0);
    KvmBackendConfig backend;
    backend.launcher_socket = launcher_.socket();
    backend.answer_timeout = absl::Seconds(60);
    LocalNodeConfig config;
    config.backend = *KvmBackend::Create(backend);
    config.kernel = images_->kernel();
    config.agent = images_->agent();
    config.memory_capacity_mib = 700;
    config.boot_timeout = absl::Minutes(2);
    config.timeout_grace = absl::Seconds(20);
    config.idle_pause = absl::Milliseconds(200);
    config.waiting_vmms = 0;  // The launcher's first VMM is the first instance's.
    node_ = *LocalNode::Create(std::move(config));
    node_->Watch(this);
  }
  ~GuestNode() override { node_->Watch(nullptr); }

  VersionPtr Version(const std::string& handler, absl::Duration timeout = absl::Minutes(1)) {
    auto version = std::make_shared<VersionDescription>();
    version->name = absl::StrCat("tenants/t/functions/", handler, "/versions/1");
    version->runtime = images_->FindRuntime("python3.11")->description;
    version->runtime.handler = "handlers." + handler;
    version->code_disk.path = folder_.path() + "/code.erofs";
    version->memory_mib = 128;
    version->timeout = timeout;
    version->init_timeout = absl::Minutes(1);
    version->environment["FLAVOUR"] = "vanilla";
    return version;
  }
  absl::StatusOr<InvocationReport> Invoke(VersionPtr version, const std::string& payload,
                                          StringSink* sink) {
    auto reservation = node_->Reserve(version, absl::InfiniteFuture(), Cancellation());
    if (!reservation.ok()) return reservation.status();
    InvocationRequest request;
    request.id = absl::StrCat("0190d3c1-7d6e-7000-8000-00000000000", ++requests_);
    request.content_type = "application/json";
    request.payload = payload;
    request.arrival = SteadyNow();
    auto report = node_->Invoke(*std::move(reservation), request, *sink, Cancellation());
    if (report.ok())
      std::cout << report->invocation.ShortDebugString() << "\n" << sink->bytes << "\n";
    return report;
  }
  void OnLog(const std::string&, hearth::v1::LogEntry entry) override {
    absl::MutexLock lock(&mutex_);
    lines_.push_back(entry.text());
    if (!entry.invocation().empty()) named_ = true;
  }
  std::string Lines() {
    absl::MutexLock lock(&mutex_);
    std::string all;
    for (const std::string& line : lines_) absl::StrAppend(&all, line, "\n");
    return all;
  }
  LocalNode& node() { return *node_; }
  testing::LauncherProgram& launcher() { return launcher_; }

 private:
  testing::TemporaryFolder folder_;
  testing::LauncherProgram launcher_;
  VerifiedFiles verified_{""};
  std::unique_ptr<ImageStore> images_;
  absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  bool named_ ABSL_GUARDED_BY(mutex_) = false;
  int requests_ = 0;
  std::unique_ptr<LocalNode> node_;
};

TEST_CASE("guest node: Python is served cold, then warm after a pause, and billed") {
  if (!CanRun()) return;
  GuestNode guest;
  StringSink first_sink, second_sink;
  const auto first = guest.Invoke(guest.Version("echo"), R"({"a": 1})", &first_sink);
  INFO(first.status());
  REQUIRE(first.ok());
  CHECK(first->invocation.outcome() == hearth::v1::SUCCEEDED);
  CHECK(absl::StrContains(first_sink.bytes, R"("served": 1)"));
  CHECK(absl::StrContains(first_sink.bytes, R"({"a": 1})"));
  CHECK(absl::StrContains(first_sink.bytes, "vanilla"));
  CHECK(first->invocation.guest_boot_id().size() == 36);
  CHECK(first->invocation.usage().host().cpu_ns() > 0);
  CHECK(first->invocation.usage().host().boot_cpu_ns() > 0);
  CHECK(first->invocation.usage().guest().wall_ns() > 0);
  CHECK(absl::StrContains(guest.Lines(), "serving 1"));
  while (guest.node().ListInstances().at(0).state() != hearth::v1::Instance::PAUSED) {
    std::this_thread::yield();
  }
  const auto second = guest.Invoke(guest.Version("echo"), R"({"a": 2})", &second_sink);
  REQUIRE(second.ok());
  CHECK(second->invocation.start_kind() == hearth::v1::WARM);
  CHECK(second->invocation.guest_boot_id() == first->invocation.guest_boot_id());
  CHECK(absl::StrContains(second_sink.bytes, R"("served": 2)"));
  // Its cgroup has the guest's memory as its limit, and goes with it.
  CHECK(testing::ReadFile("/sys/fs/cgroup/hearth-test/vm-1/memory.max") ==
        absl::StrCat((128 + 2 + 32) * 1024 * 1024, "\n"));
  REQUIRE(guest.node().Drain("", false).ok());
  CHECK_FALSE(std::filesystem::exists("/sys/fs/cgroup/hearth-test/vm-1"));
}

TEST_CASE("guest node: errors, exits and time-outs of a function are told apart") {
  if (!CanRun()) return;
  GuestNode guest;
  StringSink sink;
  const auto failed = guest.Invoke(guest.Version("fail"), "{}", &sink);
  REQUIRE(failed.ok());
  CHECK(failed->invocation.outcome() == hearth::v1::FUNCTION_ERROR);
  CHECK(failed->invocation.error().type() == "KeyError");
  const auto left = guest.Invoke(guest.Version("leave"), "{}", &sink);
  REQUIRE(left.ok());
  CHECK(left->invocation.outcome() == hearth::v1::FUNCTION_ERROR);
  const auto slept = guest.Invoke(guest.Version("sleep", absl::Seconds(1)), "{}", &sink);
  REQUIRE(slept.ok());
  CHECK(slept->invocation.outcome() == hearth::v1::TIMED_OUT);
  const absl::Status missing = guest.Invoke(guest.Version("missing"), "{}", &sink).status();
  INFO(missing);
  CHECK(missing.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(missing.GetPayload(kFunctionErrorPayload).has_value());
}

TEST_CASE("guest node: a function that sleeps is woken in time") {
  if (!CanRun()) return;
  GuestNode guest;
  StringSink sink;
  const auto napped = guest.Invoke(guest.Version("nap"), "{}", &sink);
  INFO(napped.status());
  REQUIRE(napped.ok());
  CHECK(napped->invocation.outcome() == hearth::v1::SUCCEEDED);
}

TEST_CASE("guest node: a VMM or a launcher killed in the middle is an instance lost") {
  if (!CanRun()) return;
  GuestNode guest;
  const pid_t launcher = guest.launcher().program().pid();
  const bool kill_launcher = GENERATE(false, true);
  StringSink sink;
  absl::StatusOr<InvocationReport> report = absl::UnknownError("not run");
  std::thread client([&] { report = guest.Invoke(guest.Version("sleep"), "{}", &sink); });
  const auto is_busy = [&] {
    const auto listed = guest.node().ListInstances();
    return !listed.empty() && listed[0].state() == hearth::v1::Instance::BUSY;
  };
  while (!is_busy()) std::this_thread::yield();
  if (kill_launcher) {
    guest.launcher().program().Signal(SIGKILL);
  } else {
    kill(std::stoi(
             testing::ReadFile(absl::StrCat("/proc/", launcher, "/task/", launcher, "/children"))),
         SIGKILL);
  }
  client.join();
  INFO(report.status());
  // Killed before the call was sent, another instance is tried; with the launcher gone there is
  // none.
  if (report.ok()) {
    CHECK(report->invocation.outcome() == hearth::v1::INSTANCE_LOST);
  } else {
    CHECK(report.status().code() == absl::StatusCode::kUnavailable);
  }
  REQUIRE(guest.node().Drain("", true).ok());
  CHECK(guest.node().ListInstances().empty());
}

}  // namespace
}  // namespace hearth::control
