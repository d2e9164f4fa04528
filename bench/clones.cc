// SPDX-License-Identifier: Apache-2.0
#include "bench/clones.h"

#include "absl/strings/str_cat.h"
#include "bench/vmm_processes.h"
#include "vmm/base/status.h"

namespace hearth::bench {

absl::StatusOr<ClonesResults> RunClones(const Client& client, const Call& call, int count) {
  RETURN_IF_ERROR(client.AwaitNoInstance(call.function));
  ASSIGN_OR_RETURN(const int64_t before, AvailableBytes());
  ClonesResults results;
  for (int last = -1; results.alive < count && results.alive > last;) {
    last = results.alive;
    for (const auto& reply : client.InvokeAtOnce(call, count)) RETURN_IF_ERROR(reply.status());
    ASSIGN_OR_RETURN(results.alive, client.CountInstances(call.function));
  }
  if (results.alive != count) {
    return absl::UnavailableError(
        absl::StrCat("only ", results.alive, " of ", count,
                     " clones are alive at once: they answer before others start, or hearthd has "
                     "no memory for more; let the function take longer, or see --memory-mib"));
  }
  ASSIGN_OR_RETURN(const int64_t after, AvailableBytes());
  const std::vector<pid_t> vmms = VmmsWithGuest();
  if (vmms.size() != static_cast<size_t>(count)) {
    return absl::UnavailableError(
        absl::StrCat(vmms.size(), " hearth-vmm with a guest are seen instead of ", count,
                     ": run this as root beside hearthd, with cgroups, and nothing else"));
  }
  for (const pid_t pid : vmms) {
    ASSIGN_OR_RETURN(const VmmMemory memory, MemoryOf(pid));
    results.pss_bytes += static_cast<double>(memory.pss_bytes) / count;
    results.private_bytes += static_cast<double>(memory.private_bytes) / count;
  }
  results.available_lost_bytes = static_cast<double>(before - after) / count;
  return results;
}

}  // namespace hearth::bench
