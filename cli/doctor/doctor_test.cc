// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <fstream>
#include <sstream>

#include "cli/app.h"
#include "cli/doctor/host.h"
#include "cli/doctor/programs.h"
#include "cli/testing/fake_hearthd.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

json Report(double speed, bool cmpxchg16b) {
  return {{"deviceStatus", {{"code", 0}, {"message", ""}}},
          {"machineStatus", {{"code", 0}, {"message", ""}}},
          {"kernelInstructionsPerSecond", speed},
          {"fast", speed > 20e6},
          {"instructions", {{{"name", "cmpxchg16b"}, {"works", cmpxchg16b}, {"detail", ""}}}}};
}

TEST_CASE(
    "doctor: a KVM that interprets kernel mode is not usable, and the figure is the measured one") {
  const KvmVerdict verdict = JudgeProbe(Report(1.1e6, false), "/dev/kvm");
  CHECK_FALSE(verdict.usable);
  CHECK(verdict.why == "kernel mode runs at 1.1 million instructions a second, without cmpxchg16b");
  CHECK(JudgeProbe(Report(2.2e9, true), "/dev/kvm").usable);
  CHECK(JudgeProbe(Report(2.2e9, false), "/dev/kvm").why == "without cmpxchg16b");
}

TEST_CASE("doctor: no device, no permission and no KVM each say what to do") {
  TemporaryFolder folder;
  const std::string none = folder / "kvm";
  KvmVerdict verdict = JudgeProbe(RunProbe(HEARTH_KVM_PROBE, none), none);
  CHECK(verdict.why == "there is no " + none);
  CHECK(verdict.advice.find("modprobe") != std::string::npos);

  std::ofstream(none) << "x";
  verdict = JudgeProbe(RunProbe(HEARTH_KVM_PROBE, none), none);
  CHECK(verdict.why.find("no KVM device") != std::string::npos);

  json denied = {{"deviceStatus", {{"code", 7}, {"message", "open"}}}};
  verdict = JudgeProbe(denied, "/dev/kvm");
  CHECK(verdict.why == "you may not open /dev/kvm");
  CHECK(verdict.advice.find("usermod -aG kvm") != std::string::npos);
}

TEST_CASE("doctor: a probe that cannot be run, or fails, is told") {
  CHECK(JudgeProbe(RunProbe("/nonexistent/probe", "/dev/kvm"), "/dev/kvm").why.find("cannot run") ==
        0);
  CHECK(JudgeProbe(RunProbe("/bin/false", "/dev/kvm"), "/dev/kvm").why.find("wait status") !=
        std::string::npos);
}

TEST_CASE("doctor: this machine's own KVM is measured, when there is one") {
  if (access("/dev/kvm", R_OK | W_OK) != 0) {
    WARN("SKIPPED: there is no /dev/kvm here that this user may open");
    return;
  }
  const json report = RunProbe(HEARTH_KVM_PROBE, "/dev/kvm");
  REQUIRE(report["deviceStatus"]["code"] == 0);
  REQUIRE(report["machineStatus"]["code"] == 0);
  CHECK(report["kernelInstructionsPerSecond"].get<double>() > 1000);
  CHECK(report["instructions"].size() == 3);
}

// A program that says `text` and ends with `code`.
std::string Script(const std::string& path, const std::string& text, int code) {
  std::ofstream(path) << "#!/bin/sh\necho '" << text << "'\nexit " << code << "\n";
  REQUIRE(chmod(path.c_str(), 0755) == 0);
  return path;
}

const Check& Named(const std::vector<Check>& checks, const std::string& name) {
  for (const Check& check : checks) {
    if (check.name == name) return check;
  }
  FAIL("no check is named " << name);
  return checks.front();
}

TEST_CASE("doctor: what libvirt needs is looked at, and what is missing is told with its cure") {
  TemporaryFolder folder;
  LibvirtPlaces places;
  places.user = "no-such-user";
  for (const Check& check : CheckLibvirt(places)) {
    INFO(check.name);
    CHECK(check.state == Check::State::kBad);
    CHECK_FALSE(check.advice.empty());
  }
  CHECK(Named(CheckLibvirt(places), "helper").text == "hearth-libvirt is missing");
  CHECK(Named(CheckLibvirt(places), "driver").advice.find("libvirt-daemon-driver-qemu") !=
        std::string::npos);
  CHECK(Named(CheckLibvirt(places), "user").text == "there is no user no-such-user");

  places.helper = Script(folder / "helper", "hearth-libvirt 0.1.0", 0);
  places.qemu = Script(folder / "qemu", "pc  Standard PC\nmicrovm   microvm (i386)", 0);
  std::ofstream(folder / "libvirt_driver_qemu.so") << "x";
  places.driver_folders = {folder / "nowhere", folder.path.string()};
  places.user = "root";
  for (const Check& check : CheckLibvirt(places)) {
    INFO(check.text);
    CHECK(check.state == Check::State::kGood);
  }
  CHECK(Named(CheckLibvirt(places), "helper").text == "hearth-libvirt 0.1.0 is there");

  places.helper = Script(folder / "helper", "libvirt.so.0: cannot open shared object file", 127);
  places.qemu = Script(folder / "qemu", "pc  Standard PC, no microvm", 0);
  CHECK(Named(CheckLibvirt(places), "helper").text ==
        "hearth-libvirt does not run: libvirt.so.0: cannot open shared object file");
  CHECK(Named(CheckLibvirt(places), "qemu").text ==
        "qemu-system-x86_64 has no machine type microvm");
}

TEST_CASE(
    "doctor: a program that hangs is ended at its time-out, and so is one that closed its output") {
  for (const char* script : {"exec sleep 1000", "exec >/dev/null 2>&1; exec sleep 1000"}) {
    const auto ran =
        RunProgram({"/bin/sh", "-c", script}, /*errors=*/true, std::chrono::milliseconds(200));
    CHECK(ran.status().code() == absl::StatusCode::kDeadlineExceeded);
    CHECK(ran.status().message() == "/bin/sh did not end within 200 ms");
  }
}

TEST_CASE("doctor: a program that is run ends at Ctrl-C, though we block the signal") {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto ran = RunProgram({"/bin/sh", "-c", "kill -INT $$; echo survived"}, /*errors=*/false);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  REQUIRE(ran.ok());
  CHECK(WIFSIGNALED(ran->wait_status));
  CHECK(ran->output == "");
}

TEST_CASE("doctor: what makes the making of VMs slow is told by name") {
  const std::string mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw";
  const Check slow = VmStartCheck("Y", mount + ",nsdelegate\n");
  CHECK(slow.state == Check::State::kNote);
  CHECK(slow.text.find("kvm.nx_huge_pages is Y") != std::string::npos);
  CHECK(slow.advice.find("favordynmods") != std::string::npos);
  CHECK(VmStartCheck("never", mount).state == Check::State::kGood);
  CHECK(VmStartCheck("Y", mount + ",favordynmods\n").state == Check::State::kGood);
  CHECK(VmStartCheck("Y", "23 1 0:21 / /sys rw - sysfs sysfs rw\n").state == Check::State::kGood);
}

struct Ran {
  int code = 0;
  std::string out;
};

Ran RunDoctor(const TemporaryFolder& folder, std::vector<std::string> more) {
  std::vector<std::string> arguments = {"doctor",       "--probe",  HEARTH_KVM_PROBE, "--device",
                                        folder / "kvm", "--socket", folder / "socket"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  std::ostringstream out, err;
  Interrupt interrupt;
  const int code = RunApp(arguments, Terminal{out, err}, &interrupt);
  return {code, out.str()};
}

TEST_CASE("doctor: text and JSON say the same, and the exit code says whether a backend serves") {
  TemporaryFolder folder;
  const Ran text = RunDoctor(folder, {});
  const Ran machines = RunDoctor(folder, {"--json"});
  CHECK(text.code == machines.code);
  const json report = json::parse(machines.out);
  // What libvirt needs may be here or not; this KVM is not.
  CHECK(report["choice"] == (text.code == kExitOk ? "libvirt" : "none"));
  CHECK(report["accel"] == (text.code == kExitOk ? "tcg" : ""));
  CHECK(report["flag"] == (text.code == kExitOk ? "--backend=libvirt" : ""));
  CHECK(report["testbedOnly"] == (text.code == kExitTestbedOnly));
  const std::string reason = report["reason"];
  CHECK(reason.find("KVM is not usable (there is no " + (folder / "kvm")) == 0);
  const std::string summary = report["summary"];
  CHECK(summary.find(report["choice"].get<std::string>() + ": ") == 0);
  CHECK(text.out.find("\nchoice   " + summary + "\n") != std::string::npos);
  CHECK(text.out.find("\nwhy      " + reason + "\n") != std::string::npos);
  CHECK(text.out.find("\nchange   " + report["change"].get<std::string>()) != std::string::npos);
  CHECK(text.out.find("  note  hearthd  hearthd is not running") != std::string::npos);
}

TEST_CASE("doctor: --backend judges that backend only") {
  TemporaryFolder folder;
  const Ran kvm = RunDoctor(folder, {"--backend", "kvm", "--json"});
  CHECK((kvm.code == kExitTestbedOnly || kvm.code == kExitNoWay));
  CHECK(json::parse(kvm.out)["choice"] == "none");
  CHECK(json::parse(kvm.out)["reason"].get<std::string>().find("libvirt") == std::string::npos);
  const Ran libvirt = RunDoctor(folder, {"--backend", "libvirt", "--json"});
  CHECK((libvirt.code == kExitOk || libvirt.code == kExitNoWay));
  CHECK(json::parse(libvirt.out)["choice"] == (libvirt.code == kExitOk ? "libvirt" : "none"));
  CHECK(RunDoctor(folder, {"--backend", "xen"}).code == kExitUsage);
}

}  // namespace
}  // namespace hearth::cli
