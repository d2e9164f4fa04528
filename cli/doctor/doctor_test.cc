// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "cli/app.h"
#include "cli/doctor/host.h"
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
    WARN("skipped: there is no /dev/kvm here that this user may open");
    return;
  }
  const json report = RunProbe(HEARTH_KVM_PROBE, "/dev/kvm");
  REQUIRE(report["deviceStatus"]["code"] == 0);
  REQUIRE(report["machineStatus"]["code"] == 0);
  CHECK(report["kernelInstructionsPerSecond"].get<double>() > 1000);
  CHECK(report["instructions"].size() == 3);
}

TEST_CASE("doctor: text and JSON say the same, and the exit code says which way") {
  TemporaryFolder folder;
  for (const bool as_json : {false, true}) {
    std::ostringstream out;
    std::ostringstream err;
    Interrupt interrupt;
    std::vector<std::string> arguments = {"doctor",       "--probe",  HEARTH_KVM_PROBE, "--device",
                                          folder / "kvm", "--socket", folder / "socket"};
    if (as_json) arguments.push_back("--json");
    const int code = RunApp(arguments, Terminal{out, err}, &interrupt);
    CHECK((code == kExitTestbedOnly || code == kExitNoWay));
    if (as_json) {
      const json report = json::parse(out.str());
      CHECK(report["way"] == (code == kExitTestbedOnly ? "testbed" : "none"));
      CHECK(report["why"] == "there is no " + (folder / "kvm"));
    } else {
      CHECK(out.str().find("host     KVM: not usable (there is no ") == 0);
      CHECK(out.str().find("  note  hearthd  hearthd is not running") != std::string::npos);
    }
  }
}

}  // namespace
}  // namespace hearth::cli
