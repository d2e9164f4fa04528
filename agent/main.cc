// SPDX-License-Identifier: Apache-2.0
// hearth-agent: PID 1 of a Hearth guest. Never exits: what cannot go on is told on the console in
// one line, and the machine is reset.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/files.h"
#include "agent/mounts.h"
#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

void Say(absl::string_view text) {
  const std::string line = absl::StrCat("hearth-agent: ", text, "\n");
  // The kernel opened the console as 0, 1 and 2.
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

// No user namespaces for user code: they would give it capabilities over more of the kernel.
absl::Status HardenKernel() { return WriteSmallFile("/proc/sys/user/max_user_namespaces", "0"); }

absl::Status Serve(GuestMachine* machine) {
  signal(SIGPIPE, SIG_IGN);
  RETURN_IF_ERROR(MountSystem());
  RETURN_IF_ERROR(HardenKernel());
  RETURN_IF_ERROR(BringUpLoopback());
  ASSIGN_OR_RETURN(const std::string command_line, ReadSmallFile("/proc/cmdline"));
  ASSIGN_OR_RETURN(const Transport transport, TransportOf(command_line));
  ASSIGN_OR_RETURN(const std::string boot_id, ReadSmallFile("/proc/sys/kernel/random/boot_id"));

  ASSIGN_OR_RETURN(const Cgroup root, Cgroup::Open(kCgroupMount));
  for (absl::string_view controller : {"memory", "pids"}) {
    if (root.HasController(controller)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the kernel has no cgroup controller ", controller));
  }
  RETURN_IF_ERROR(root.DelegateControllers());
  AgentOptions options;
  options.cgroup_path = absl::StrCat(kCgroupMount, "/user");
  options.boot_id = std::string(absl::StripAsciiWhitespace(boot_id));
  options.connection.dial = [transport] { return Connect(transport); };
  options.connection.say = Say;
  ASSIGN_OR_RETURN(options.connection.socket, Connect(transport));
  ASSIGN_OR_RETURN(std::unique_ptr<Agent> agent, Agent::Create(std::move(options), machine));
  return agent->Run();
}

}  // namespace
}  // namespace hearth::agent

int main() {
  if (getpid() != 1) {
    std::fprintf(stderr, "hearth-agent is PID 1 of a Hearth guest; it does nothing elsewhere\n");
    return 2;
  }
  hearth::agent::GuestMachine machine;
  const absl::Status status = hearth::agent::Serve(&machine);
  hearth::agent::Say(status.ok() ? "shut down" : status.ToString());
  machine.Reset();
}
