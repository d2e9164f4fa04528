// SPDX-License-Identifier: Apache-2.0
// hearth-vmm-run: boots a kernel in hearth-vmm from the command line and shows its console. For
// tests in the testbed and for working on the VMM; hearthd does not use it.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "vmm/base/token_bucket.h"
#include "vmm/testing/run_machine.h"

namespace hearth::vmm::testing {
namespace {

constexpr char kUsage[] =
    "usage: hearth-vmm-run --vmm=PATH --kernel=VMLINUX|--do-nothing [--initrd=FILE]\n"
    "         [--command-line=TEXT] [--repeat=N]\n"
    "         [--memory-mib=N] [--vcpus=N] [--disk=FILE]... [--entropy] [--guest-cid=N]\n"
    "         [--timeout-ms=N] [--snapshot-after=TEXT [--until=TEXT] [--waiting]]\n"
    "Exits with 0 when the guest reset itself. With --do-nothing the guest writes one byte, and\n"
    "the time from spawn to that byte is shown, N times. With --snapshot-after the machine is "
    "saved\n"
    "when its console shows the text, and restored N times in processes of their own (--waiting:\n"
    "spawned before the time is taken); each runs until its console shows the other text, or "
    "until\n"
    "the guest resets itself.\n";

bool Parse(int argc, char** argv, RunArguments& to) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    bool good = true;
    if (absl::ConsumePrefix(&text, "--vmm=")) {
      to.vmm = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--kernel=")) {
      to.kernel = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--initrd=")) {
      to.initrd = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--command-line=")) {
      to.command_line = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--disk=")) {
      to.disks.emplace_back(text);
    } else if (absl::ConsumePrefix(&text, "--memory-mib=")) {
      good = absl::SimpleAtoi(text, &to.memory_mib);
    } else if (absl::ConsumePrefix(&text, "--guest-cid=")) {
      good = absl::SimpleAtoi(text, &to.guest_cid);
    } else if (absl::ConsumePrefix(&text, "--timeout-ms=")) {
      good = absl::SimpleAtoi(text, &to.timeout_ms);
    } else if (absl::ConsumePrefix(&text, "--repeat=")) {
      good = absl::SimpleAtoi(text, &to.repeat);
    } else if (absl::ConsumePrefix(&text, "--vcpus=")) {
      good = absl::SimpleAtoi(text, &to.vcpus);
    } else if (absl::ConsumePrefix(&text, "--snapshot-after=")) {
      to.snapshot_after = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--until=")) {
      to.until = std::string(text);
    } else if (text == "--waiting") {
      to.waiting = true;
    } else if (text == "--do-nothing") {
      to.do_nothing = true;
    } else if (text == "--entropy") {
      to.entropy = true;
    } else {
      good = false;
    }
    if (!good) return false;
  }
  return !to.vmm.empty() && to.kernel.empty() == to.do_nothing;
}

// What the process costs before the guest runs: of guest memory only boot data is touched by then.
void ShowMemory(pid_t pid) {
  std::FILE* file = std::fopen(absl::StrCat("/proc/", pid, "/smaps_rollup").c_str(), "re");
  if (file == nullptr) return;
  char line[256];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::strncmp(line, "Pss:", 4) == 0 || std::strncmp(line, "Private", 7) == 0) {
      std::fputs(line, stderr);
    }
  }
  std::fclose(file);
}

absl::Status RunOnce(const RunArguments& arguments) {
  int ends[2] = {-1, -1};
  if (arguments.do_nothing && pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const uint64_t begin_ns = MonotonicNs();
  const auto elapsed_ms = [begin_ns] {
    return static_cast<double>(MonotonicNs() - begin_ns) / 1e6;
  };
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(arguments.vmm));
  const double spawned_ms = elapsed_ms();
  RETURN_IF_ERROR(
      CreateMachine(process, arguments, arguments.do_nothing ? write_end.get() : STDOUT_FILENO));
  const double created_ms = elapsed_ms();
  if (arguments.do_nothing) ShowMemory(process.pid());
  v1::Request start;
  start.mutable_start();
  RETURN_IF_ERROR(process.Call(std::move(start)).status());
  if (arguments.do_nothing) {
    char byte;
    if (read(read_end.get(), &byte, 1) != 1) return absl::DataLossError("no byte on the console");
    std::fprintf(stderr, "spawned %.3f, created %.3f, first byte %.3f ms\n", spawned_ms, created_ms,
                 elapsed_ms());
  }
  const auto exited = process.AwaitExited(static_cast<int>(arguments.timeout_ms));
  if (!exited.ok()) {
    const auto status = process.Wait(1000);
    return Annotate(exited.status(),
                    absl::StrCat("waiting for the guest; the VMM's wait status is ",
                                 status.ok() ? *status : -1));
  }
  std::fprintf(stderr, "hearth-vmm-run: created after %.1f ms; %s, %s, after %.1f ms\n", created_ms,
               v1::Exited::Reason_Name(exited->reason()).c_str(), exited->detail().c_str(),
               elapsed_ms());
  if (exited->reason() != v1::Exited::REASON_GUEST_RESET) {
    return absl::AbortedError(exited->detail());
  }
  return process.Wait(static_cast<int>(arguments.timeout_ms)).status();
}

absl::Status Run(const RunArguments& arguments) {
  if (!arguments.snapshot_after.empty()) return RunSnapshot(arguments);
  for (uint32_t i = 0; i < arguments.repeat; ++i) RETURN_IF_ERROR(RunOnce(arguments));
  return absl::OkStatus();
}

}  // namespace
}  // namespace hearth::vmm::testing

int main(int argc, char** argv) {
  hearth::vmm::testing::RunArguments arguments;
  if (!hearth::vmm::testing::Parse(argc, argv, arguments)) {
    std::fputs(hearth::vmm::testing::kUsage, stderr);
    return 2;
  }
  const absl::Status status = hearth::vmm::testing::Run(arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "hearth-vmm-run: %s\n", std::string(status.message()).c_str());
  return 1;
}
