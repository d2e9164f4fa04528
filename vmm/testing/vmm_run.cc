// SPDX-License-Identifier: Apache-2.0
// hearth-vmm-run: boots a kernel in hearth-vmm from the command line and shows its console. For
// tests in the testbed and for working on the VMM; hearthd does not use it.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "vmm/base/token_bucket.h"
#include "vmm/testing/vmm_process.h"

namespace hearth::vmm::testing {
namespace {

constexpr char kUsage[] =
    "usage: hearth-vmm-run --vmm=PATH --kernel=VMLINUX [--initrd=FILE] [--command-line=TEXT]\n"
    "         [--memory-mib=N] [--disk=FILE]... [--entropy] [--guest-cid=N] [--timeout-ms=N]\n"
    "Exits with 0 when the guest reset itself.\n";

struct Arguments {
  std::string vmm, kernel, initrd, command_line;
  std::vector<std::string> disks;
  uint32_t memory_mib = 128;
  uint32_t guest_cid = 0;
  uint32_t timeout_ms = 120'000;
  bool entropy = false;
};

bool Parse(int argc, char** argv, Arguments& to) {
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
    } else if (text == "--entropy") {
      to.entropy = true;
    } else {
      good = false;
    }
    if (!good) return false;
  }
  return !to.vmm.empty() && !to.kernel.empty();
}

absl::StatusOr<UniqueFd> Open(const std::string& path, int flags = O_RDONLY) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoStatus(path);
  return fd;
}

absl::Status Create(VmmProcess& process, const Arguments& arguments) {
  v1::Request request;
  v1::CreateMachine& create = *request.mutable_create();
  create.set_memory_mib(arguments.memory_mib);
  create.set_vcpu_count(1);
  create.set_command_line(arguments.command_line);
  create.set_entropy(arguments.entropy);
  if (arguments.guest_cid != 0) create.mutable_vsock()->set_guest_cid(arguments.guest_cid);
  std::vector<UniqueFd> fds;
  ASSIGN_OR_RETURN(UniqueFd kernel, Open(arguments.kernel));
  fds.push_back(std::move(kernel));
  create.mutable_console()->set_fd(1);
  fds.emplace_back(dup(STDOUT_FILENO));
  if (!arguments.initrd.empty()) {
    create.set_has_initrd(true);
    create.set_initrd_fd(static_cast<uint32_t>(fds.size()));
    ASSIGN_OR_RETURN(UniqueFd initrd, Open(arguments.initrd));
    fds.push_back(std::move(initrd));
  }
  for (const std::string& path : arguments.disks) {
    v1::Disk& disk = *create.add_disks();
    disk.set_fd(static_cast<uint32_t>(fds.size()));
    disk.set_read_only(true);
    ASSIGN_OR_RETURN(UniqueFd file, Open(path));
    fds.push_back(std::move(file));
  }
  return process.Call(std::move(request), std::move(fds)).status();
}

absl::Status Run(const Arguments& arguments) {
  const uint64_t begin_ns = MonotonicNs();
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(arguments.vmm));
  RETURN_IF_ERROR(Create(process, arguments));
  v1::Request start;
  start.mutable_start();
  RETURN_IF_ERROR(process.Call(std::move(start)).status());
  const auto exited = process.AwaitExited(static_cast<int>(arguments.timeout_ms));
  if (!exited.ok()) {
    const auto status = process.Wait(1000);
    return Annotate(exited.status(),
                    absl::StrCat("waiting for the guest; the VMM's wait status is ",
                                 status.ok() ? *status : -1));
  }
  std::fprintf(stderr, "hearth-vmm-run: %s, %s, after %.1f ms\n",
               v1::Exited::Reason_Name(exited->reason()).c_str(), exited->detail().c_str(),
               static_cast<double>(MonotonicNs() - begin_ns) / 1e6);
  if (exited->reason() != v1::Exited::REASON_GUEST_RESET) {
    return absl::AbortedError(exited->detail());
  }
  return process.Wait(static_cast<int>(arguments.timeout_ms)).status();
}

}  // namespace
}  // namespace hearth::vmm::testing

int main(int argc, char** argv) {
  hearth::vmm::testing::Arguments arguments;
  if (!hearth::vmm::testing::Parse(argc, argv, arguments)) {
    std::fputs(hearth::vmm::testing::kUsage, stderr);
    return 2;
  }
  const absl::Status status = hearth::vmm::testing::Run(arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "hearth-vmm-run: %s\n", std::string(status.message()).c_str());
  return 1;
}
