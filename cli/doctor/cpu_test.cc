// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor/cpu.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "cli/app.h"
#include "cli/failure.h"
#include "cli/testing/fake_hearthd.h"
#include "control-plane/snapshots/host.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

struct Ran {
  int code = 0;
  std::string out;
  std::string err;
};

Ran RunDoctor(std::vector<std::string> arguments) {
  std::ostringstream out, err;
  Interrupt interrupt;
  arguments.insert(arguments.begin(), "doctor");
  const int code = RunApp(arguments, Terminal{out, err}, &interrupt);
  return {code, out.str(), err.str()};
}

std::string Write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

// In hearth-libvirt's place: writes its arguments to `path`.arguments, then does what `script`
// says.
std::string FakeLibvirt(const std::string& path, const std::string& script) {
  Write(path, "#!/bin/sh\necho \"$@\" >'" + path + ".arguments'\n" + script);
  chmod(path.c_str(), 0755);
  return path;
}

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

constexpr char kSkylake[] =
    R"(echo '{"model": "Skylake-Server", "more": ["ss", "vmx"], "fewer": ["mpx"], "xml": "<cpu/>"}')";

// A host's document, as `doctor --json` has it.
json HostDocument(const std::string& microcode, const std::string& flags) {
  const auto host = control::HostDescription(
      "0.1.0",
      "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon Gold 6148\n"
      "stepping\t: 4\nmicrocode\t: " +
          microcode + "\nflags\t\t: " + flags + "\n",
      "6.1.0");
  json features = json::array();
  for (const auto& feature : host->cpu_features()) features.push_back(feature);
  return {{"cpu",
           {{"host",
             {{"vmmVersion", host->vmm_version()},
              {"cpuVendor", host->cpu_vendor()},
              {"cpuModel", host->cpu_model()},
              {"cpuFamily", host->cpu_family()},
              {"cpuModelNumber", host->cpu_model_number()},
              {"cpuStepping", host->cpu_stepping()},
              {"microcode", host->microcode()},
              {"cpuFeatures", features},
              {"ofALaterVersion", true}}},
            {"libvirt", {{"model", "Skylake-Server"}, {"xml", "<cpu/>"}}}}}};
}

struct Hosts {
  std::string Add(const std::string& name, const json& document) {
    return Write(folder / name, document.dump());
  }
  TemporaryFolder folder;
};

TEST_CASE("doctor: this host's processor is told, with libvirt's name for it") {
  TemporaryFolder folder;
  const std::string libvirt = FakeLibvirt(folder / "libvirt", kSkylake);
  const std::vector<std::string> arguments = {"--probe", HEARTH_KVM_PROBE, "--libvirt",
                                              libvirt,   "--socket",       folder / "socket"};
  const Ran text = RunDoctor(arguments);
  CAPTURE(text.out);
  CHECK(absl::StrContains(text.out, "  good  CPU "));
  CHECK(absl::StrContains(text.out, "libvirt's model Skylake-Server and 2 features more"));
  CHECK(ReadWhole(libvirt + ".arguments") == "cpu --json\n");

  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const json cpu = json::parse(RunDoctor(with_json).out)["cpu"];
  CHECK(cpu["libvirt"]["model"] == "Skylake-Server");
  const auto here = control::HostDescription("");
  REQUIRE(here.ok());
  CHECK(cpu["host"]["cpuVendor"] == here->cpu_vendor());
  CHECK(cpu["host"]["cpuFeatures"].size() == static_cast<size_t>(here->cpu_features_size()));
}

TEST_CASE("doctor: a host without hearth-libvirt has a processor all the same") {
  TemporaryFolder folder;
  CHECK(DescribeCpu("/nonexistent/hearth-libvirt")["libvirt"]["missing"] ==
        "cannot run /nonexistent/hearth-libvirt: No such file or directory");
  const json cpu =
      DescribeCpu(FakeLibvirt(folder / "libvirt", "echo 'no driver here' >&2; exit 1"));
  CHECK(cpu["libvirt"]["missing"] == "no driver here");
  const Check check = CpuCheck(cpu);
  CHECK(check.state == Check::State::kGood);
  CHECK(absl::EndsWith(check.text, "libvirt's model is not known: no driver here"));
  // What is no document is no answer either.
  CHECK(DescribeCpu(FakeLibvirt(folder / "other", "echo '[]'"))["libvirt"]["missing"] == "[]");
  CHECK(CpuCheck({{"host", {{"missing", "no /proc"}}}, {"libvirt", {}}}).text ==
        "not known: no /proc");
}

TEST_CASE("doctor --baseline: hosts that share snapshots, the others by name, and the model") {
  Hosts hosts;
  const std::string a = hosts.Add("a.json", HostDocument("0x1", "sse avx"));
  const std::string b = hosts.Add("b.json", HostDocument("0x2", "sse avx"));
  const std::string c = hosts.Add("c.json", HostDocument("0x1", "avx sse"));
  const std::string libvirt = FakeLibvirt(hosts.folder / "libvirt", kSkylake);
  const std::vector<std::string> arguments = {"--libvirt", libvirt, "--baseline", a, b, c};
  const Ran text = RunDoctor(arguments);
  CAPTURE(text.err);
  CHECK(text.code == kExitOk);
  CHECK(text.out ==
        "2 groups; within one, each host runs the snapshots of every other.\n"
        "group 1  " +
            a + " " + c +
            "\n"
            "         Xeon Gold 6148 (GenuineIntel, family 6 model 85 stepping 4, microcode 0x1, 2 "
            "features)\n"
            "group 2  " +
            b +
            "\n"
            "         Xeon Gold 6148 (GenuineIntel, family 6 model 85 stepping 4, microcode 0x2, 2 "
            "features)\n"
            "snapshots of group 1 do not run in group 2: microcode 0x2 here, 0x1 in the snapshot\n"
            "in common: Skylake-Server, more: ss vmx, fewer: mpx\n");
  CHECK(ReadWhole(libvirt + ".arguments") == "baseline --json -- " + a + " " + b + " " + c + "\n");

  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const json answer = json::parse(RunDoctor(with_json).out);
  CHECK(answer["groups"][0]["files"] == json{a, c});
  CHECK(answer["groups"][1]["host"]["microcode"] == "0x2");
  CHECK(answer["relations"][0] ==
        json{{"madeInGroup", 1},
             {"runsInGroup", 2},
             {"runs", false},
             {"differences", {"microcode 0x2 here, 0x1 in the snapshot"}}});
  CHECK(answer["baseline"]["fewer"] == json{"mpx"});
}

TEST_CASE("doctor --baseline: one way is told, and what libvirt cannot tell is no error") {
  Hosts hosts;
  const std::string few = hosts.Add("few.json", HostDocument("0x1", "sse"));
  json without = HostDocument("0x1", "sse avx512f");
  without["cpu"]["libvirt"] = {{"missing", "hearth-libvirt is not installed"}};
  const std::string many = hosts.Add("many.json", without);
  const std::string libvirt = FakeLibvirt(hosts.folder / "libvirt", kSkylake);
  const Ran ran = RunDoctor({"--libvirt", libvirt, "--baseline", few, many});
  CHECK(ran.code == kExitOk);
  CAPTURE(ran.out);
  CHECK(absl::StrContains(ran.out, "snapshots of group 1 run in group 2, too\n"));
  CHECK_FALSE(absl::StrContains(ran.out, "snapshots of group 2"));
  CHECK(absl::EndsWith(
      ran.out, "\nno processor in common: " + many + ": hearth-libvirt is not installed\n"));
  // Alone it fits itself.
  const Ran alone = RunDoctor({"--libvirt", libvirt, "--baseline", few});
  CHECK(absl::StartsWith(alone.out, "All of them run each other's snapshots.\n"));
  const std::string failing = FakeLibvirt(
      hosts.folder / "failing", "echo 'hearth-libvirt: CPU vendors do not match' >&2; exit 1");
  CHECK(absl::StrContains(RunDoctor({"--libvirt", failing, "--baseline", few}).out,
                          "no processor in common: hearth-libvirt: CPU vendors do not match\n"));
}

TEST_CASE("doctor --baseline: a file that is no host's document is told with what to do") {
  Hosts hosts;
  const auto refused = [&](const std::string& file, const std::string& why) {
    CAPTURE(file, why);
    const Ran ran = RunDoctor({"--baseline", file});
    CHECK(ran.code == kExitUsage);
    CAPTURE(ran.err);
    CHECK(absl::StrContains(ran.err, file + ": "));
    CHECK(absl::StrContains(ran.err, why));
    CHECK(absl::StrContains(ran.err, "hearth doctor --json > "));
    CHECK(ran.out.empty());
  };
  refused(hosts.folder / "none.json", "cannot be read");
  refused(hosts.folder.path.string(), "cannot be read");
  refused(Write(hosts.folder / "empty", ""), "is empty");
  refused(Write(hosts.folder / "text", "not JSON"), "no JSON with a member `cpu`");
  refused(Write(hosts.folder / "list", "[1]"), "no JSON with a member `cpu`");
  refused(Write(hosts.folder / "deep", std::string(100'000, '[')), "no JSON");
  refused(Write(hosts.folder / "none", "{\"cpu\": {}}"), "it names no CPU vendor");
  refused(Write(hosts.folder / "type", R"({"cpu": {"host": {"cpuFamily": "x"}}})"), "cpu.host");
  refused(Write(hosts.folder / "host", R"({"cpu": {"host": 5}})"), "cpu.host");
}

TEST_CASE("doctor --baseline: sizes and numbers have limits, and their edges are allowed") {
  Hosts hosts;
  const std::string libvirt = FakeLibvirt(hosts.folder / "libvirt", kSkylake);
  std::string text = HostDocument("0x1", "sse").dump();
  text.resize(kMaxHostFileBytes, ' ');
  const std::string large = Write(hosts.folder / "large.json", text);
  CHECK(RunDoctor({"--libvirt", libvirt, "--baseline", large}).code == kExitOk);
  const std::string larger = Write(hosts.folder / "larger.json", text + " ");
  const Ran refused = RunDoctor({"--libvirt", libvirt, "--baseline", larger});
  CHECK(refused.code == kExitUsage);
  CHECK(absl::StrContains(refused.err, "is over 1048576 bytes"));

  const std::string host = hosts.Add("host.json", HostDocument("0x1", "sse"));
  std::vector<std::string> many = {"--libvirt", libvirt, "--baseline"};
  many.insert(many.end(), kMaxHostFiles, host);
  CHECK(RunDoctor(many).code == kExitOk);
  many.push_back(host);
  const Ran too_many = RunDoctor(many);
  CHECK(too_many.code == kExitUsage);
  CHECK(absl::StrContains(too_many.err, "65 files; at most 64"));
}

TEST_CASE("doctor --baseline: a document's control characters do not reach the terminal") {
  Hosts hosts;
  json document = HostDocument("0x1", "sse");
  document["cpu"]["host"]["cpuModel"] = "Xeon\x1b[2J";
  const std::string libvirt = FakeLibvirt(hosts.folder / "libvirt", kSkylake);
  const Ran ran = RunDoctor({"--libvirt", libvirt, "--baseline", hosts.Add("host.json", document)});
  CHECK(absl::StrContains(ran.out, "Xeon?[2J"));
  CHECK_FALSE(absl::StrContains(ran.out, "\x1b"));
}

}  // namespace
}  // namespace hearth::cli
