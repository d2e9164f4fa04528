// SPDX-License-Identifier: Apache-2.0
// QEMU's processes, which libvirt does not tell of.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

struct QemuProcess {
  pid_t pid = -1;
  UniqueFd pidfd;
};

// The process of a domain that runs, by the file in which libvirt's driver keeps its number.
absl::StatusOr<QemuProcess> FindQemu(const std::string& uri, const std::string& domain);

// Its CPU time by the kernel's account; 0 when it is gone.
uint64_t CpuNs(const QemuProcess& process);

// True when it has ended in time.
bool AwaitEnd(const QemuProcess& process, int timeout_ms);

// SIGKILL. OK, too, when it has ended already.
absl::Status Kill(const QemuProcess& process);

// Kills the QEMUs that an earlier run with this embedded root left, and removes what the driver
// keeps of them: it would take them over. How many there were.
absl::StatusOr<int> RemoveOrphans(const std::string& embedded_root);

// The QEMU of a domain of ours, if there is one, by its command line: libvirt need not be asked.
std::vector<QemuProcess> QemusOf(const std::string& domain);

// Kills it when libvirt cannot destroy the domain, and waits for its end.
absl::Status EndQemuOf(const std::string& domain);

// What libvirt's driver keeps of domains that have ended: QEMU's logs. Of one; of all that are
// named as ours are, but for those that are there and another's.
void RemoveLog(const std::string& uri, const std::string& domain);
void RemoveLogs(const std::string& uri, const std::set<std::string>& others);

struct Reaped {
  pid_t pid = -1;
  int exit_code = 0;  // When it exited.
  int signal = 0;     // When a signal ended it.
  uint64_t cpu_ns = 0;
  uint64_t peak_rss_bytes = 0;
};

// The embedded driver has QEMU detach itself; as child subreaper we get it back, and libvirt, which
// waits until its number is free, does not reap it. Reaps those that ended, and leaves libvirt's
// own children alone.
std::vector<Reaped> ReapQemus();

}  // namespace hearth::libvirt
