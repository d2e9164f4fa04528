// SPDX-License-Identifier: Apache-2.0
#include "agent/accounting.h"

#include <algorithm>
#include <functional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "agent/event_loop.h"
#include "agent/files.h"

namespace hearth::agent {
namespace {

uint64_t Since(uint64_t begin, uint64_t end) { return end > begin ? end - begin : 0; }

std::string ReadProc(pid_t pid, absl::string_view file) {
  absl::StatusOr<std::string> text = ReadSmallFile(absl::StrCat("/proc/", pid, "/", file));
  return text.ok() ? *std::move(text) : std::string();
}

void ForEachProcess(const Cgroup& cgroup, const std::function<void(pid_t)>& call) {
  const std::string processes = cgroup.processes();
  for (absl::string_view line : absl::StrSplit(processes, '\n', absl::SkipEmpty())) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(line, &pid) && pid > 0) call(pid);
  }
}

}  // namespace

IoBytes IoOf(pid_t pid) {
  const std::string text = ReadProc(pid, "io");
  return {NumberAfter(text, "rchar"), NumberAfter(text, "wchar")};
}

UsageSnapshot TakeSnapshot(const Cgroup& cgroup) {
  UsageSnapshot snapshot;
  snapshot.monotonic_ns = EventLoop::NowNs();
  const Cgroup::CpuTime cpu = cgroup.cpu_time();
  snapshot.user_cpu_ns = cpu.user_ns;
  snapshot.system_cpu_ns = cpu.system_ns;
  snapshot.memory_peak_bytes = cgroup.memory_peak_bytes();
  snapshot.memory_current_bytes = cgroup.memory_current_bytes();
  ForEachProcess(cgroup, [&](pid_t pid) {
    const std::string status = ReadProc(pid, "status");
    snapshot.resident_bytes += NumberAfter(status, "VmRSS") * 1024;
    snapshot.resident_peak_bytes += NumberAfter(status, "VmHWM") * 1024;
    const IoBytes io = IoOf(pid);
    snapshot.io.read += io.read;
    snapshot.io.written += io.written;
  });
  return snapshot;
}

void ResetResidentPeaks(const Cgroup& cgroup) {
  ForEachProcess(cgroup, [](pid_t pid) {
    // A process that has just ended needs no new mark.
    WriteSmallFile(absl::StrCat("/proc/", pid, "/clear_refs"), "5").IgnoreError();
  });
}

agent::v1::ProcessUsage UsageBetween(const UsageSnapshot& begin, const UsageSnapshot& end,
                                     uint64_t sampled_peak_bytes) {
  agent::v1::ProcessUsage usage;
  usage.set_wall_ns(
      static_cast<uint64_t>(std::max<int64_t>(end.monotonic_ns - begin.monotonic_ns, 0)));
  usage.set_user_cpu_ns(Since(begin.user_cpu_ns, end.user_cpu_ns));
  usage.set_system_cpu_ns(Since(begin.system_cpu_ns, end.system_cpu_ns));
  usage.set_read_bytes(Since(begin.io.read, end.io.read));
  usage.set_written_bytes(Since(begin.io.written, end.io.written));
  if (end.memory_peak_bytes > begin.memory_peak_bytes) {
    // The life's peak fell between the two moments, so it is the peak of this time.
    usage.set_peak_memory_bytes(end.memory_peak_bytes);
  } else {
    const uint64_t grown =
        begin.memory_current_bytes + Since(begin.resident_bytes, end.resident_peak_bytes);
    const uint64_t seen =
        std::max({sampled_peak_bytes, begin.memory_current_bytes, end.memory_current_bytes, grown});
    usage.set_peak_memory_bytes(std::min(seen, end.memory_peak_bytes));
  }
  return usage;
}

}  // namespace hearth::agent
