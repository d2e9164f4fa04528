// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <sstream>

#include "bench/boot.h"
#include "bench/invoke.h"

namespace hearth::bench {
namespace {

TEST_CASE("samples: the median of odd, even and no figures") {
  CHECK(Summarize({3, 1, 2}).median == 2);
  CHECK(Summarize({4, 1, 2, 3}).median == 2.5);
  CHECK(Summarize({}).count == 0);
  CHECK(SummarizeFigure({{{"a", 1}}, {{"b", 2}}}, "a").count == 1);
}

TEST_CASE("clock: only one nanosecond for each instruction of both loops is a count") {
  CHECK(CountsInstructions(1.004, 1.004));
  CHECK_FALSE(CountsInstructions(1.0, 6.2));
  CHECK_FALSE(CountsInstructions(0.1, 1.0));
  const ClockKind kind = MeasureClock();
  CHECK(kind.ns_per_add > 0);
  CHECK(kind.ns_per_divide > 0);
}

TEST_CASE("memory: guest RAM is left out, the rest is summed up") {
  std::istringstream smaps(R"(00400000-00500000 r-xp 00000000 08:01 42    /bin/hearth-vmm
Size:               1024 kB
Rss:                 800 kB
Pss:                 400 kB
Private_Clean:        16 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Rss:                 300 kB
Pss:                 300 kB
Private_Clean:         0 kB
Private_Dirty:       300 kB
7f0009000000-7f0009100000 rw-p 00000000 00:00 0
Pss:                  64 kB
Private_Clean:         0 kB
Private_Dirty:        64 kB
)");
  const auto memory = ParseSmaps(smaps, 128 << 20);
  REQUIRE(memory.ok());
  CHECK(memory->guest_bytes == 300 * 1024);
  CHECK(memory->private_bytes == 80 * 1024);
  CHECK(memory->dirty_bytes == 64 * 1024);
  CHECK(memory->pss_bytes == 464 * 1024);
}

TEST_CASE("memory: guest RAM with a kernel's file mapped into its middle is still guest RAM") {
  std::istringstream smaps(R"(00400000-00500000 r-xp 00000000 08:01 42    /bin/hearth-vmm
Private_Dirty:         4 kB
7f0000000000-7f0001000000 rw-p 00000000 00:00 0
Rss:                   8 kB
Private_Dirty:         8 kB
7f0001000000-7f0002000000 rw-p 00000000 08:01 43    /vmlinux
Rss:                1600 kB
Private_Clean:      1600 kB
7f0002000000-7f0008000000 rw-p 00000000 00:00 0
Rss:                  12 kB
7f0008000000-7f0008001000 rw-p 00000000 00:00 0
Private_Dirty:         4 kB
)");
  const auto memory = ParseSmaps(smaps, 128 << 20);
  REQUIRE(memory.ok());
  CHECK(memory->guest_bytes == 1620 * 1024);
  CHECK(memory->private_bytes == 8 * 1024);
}

TEST_CASE("memory: a process without guest RAM is an error, not a small figure") {
  std::istringstream smaps("00400000-00500000 r-xp 00000000 08:01 42    /bin/true\nRss: 4 kB\n");
  CHECK(ParseSmaps(smaps, 128 << 20).status().code() == absl::StatusCode::kNotFound);
}

BootResults Results(double hearth, double qemu) {
  BootResults results;
  results.samples["hearth"] = {{{"first_byte_ms", hearth}, {"exits", 7}}};
  results.samples["qemu"] = {{{"first_byte_ms", qemu}}};
  results.memory["hearth"].repeated.private_bytes = 700'000;
  results.stripped_bytes = 2'000'000;
  return results;
}

TEST_CASE("report: targets are met or missed by the medians, and the aim is told apart") {
  const auto targets = Targets(Results(10, 100));
  REQUIRE(targets.size() == 3);
  CHECK(targets[0].value == Approx(0.1));
  CHECK(targets[0].met());
  CHECK_FALSE(Targets(Results(13, 100))[0].met());
  const std::string text = BootText({}, Results(10, 100));
  CHECK(text.find("met      first byte, of QEMU's") != std::string::npos);
  CHECK(text.find("aim 0.08: not yet") != std::string::npos);
  CHECK(text.find("real time") != std::string::npos);
  CHECK(BootText({}, Results(13, 100)).find("MISSED") != std::string::npos);
}

TEST_CASE("report: JSON keeps every sample and says what a ms is") {
  const auto json = BootJson({}, Results(10, 100));
  CHECK(json["machines"]["hearth"]["samples"][0]["exits"] == 7);
  CHECK(json["machines"]["qemu"]["summary"]["first_byte_ms"]["median"] == 100);
  CHECK(json["clock"]["unitOfMs"] == "ms");
  CHECK(json["targets"].size() == 3);
}

TEST_CASE("invoke: stations are hearthd's, the reply is the client's; cold and warm stay apart") {
  hearth::v1::Invocation invocation;
  invocation.mutable_timing()->mutable_boot()->set_seconds(1);
  invocation.mutable_timing()->mutable_total()->set_nanos(500'000);
  invocation.mutable_usage()->mutable_guest()->set_wall_ns(2'000'000);
  const Sample sample = SampleOf(invocation, 7);
  CHECK(sample.at("boot_ms") == 1000);
  CHECK(sample.at("total_ms") == 0.5);
  CHECK(sample.at("guest_ms") == 2);
  CHECK(sample.at("reply_ms") == 7);
  InvokeResults results;
  results.samples = {{"cold", {sample}}, {"warm", {sample}}};
  CHECK(InvokeText({}, results).find("cold") < InvokeText({}, results).find("warm"));
  CHECK(InvokeJson({}, results)["starts"]["warm"]["samples"][0]["reply_ms"] == 7);
}

TEST_CASE("invoke: a hearthd that is not there is an error, not a sample") {
  InvokeOptions options;
  options.socket = "/nonexistent/socket";
  options.call.function = "tenants/t/functions/f";
  CHECK(RunInvoke(options, [](const std::string&) {}).status().code() ==
        absl::StatusCode::kUnavailable);
}

TEST_CASE("qemu: its machine gets the same disks, memory and kernel") {
  const auto files = BootFiles::Create();
  REQUIRE(files.ok());
  BootOptions options;
  options.qemu = "qemu-system-x86_64";
  std::string line;
  for (const auto& argument : QemuArguments(options, **files)) line += argument + " ";
  CHECK(line.find("-m 128 ") != std::string::npos);
  CHECK(line.find((*files)->kernel()) != std::string::npos);
  CHECK(line.find("readonly=on,file=" + (*files)->read_only_disk()) != std::string::npos);
}

}  // namespace
}  // namespace hearth::bench
