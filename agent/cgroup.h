// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

struct CgroupLimits {
  uint64_t memory_bytes = 0;   // 0: none.
  uint32_t process_count = 0;  // 0: none.
};

// One directory of cgroup v2; removed with the object if that made it. Figures whose controller is
// missing (as in unit tests on a host with cgroup v1) read as 0.
class Cgroup {
 public:
  // Makes `path`; left-overs of that name are an error.
  static absl::StatusOr<Cgroup> Create(const std::string& path);
  // An existing one, which stays.
  static absl::StatusOr<Cgroup> Open(const std::string& path);
  Cgroup(Cgroup&&) = default;
  Cgroup& operator=(Cgroup&&) = delete;
  ~Cgroup();

  const std::string& path() const { return path_; }
  int directory_fd() const { return directory_.get(); }

  // Fails when a limit is asked for and its controller is missing.
  absl::Status SetLimits(const CgroupLimits& limits);
  // When memory runs out, kill all of it and not a part of it.
  absl::Status KillTogetherWhenOutOfMemory();
  bool HasController(absl::string_view name) const;
  // Hands the controllers that exist on to the groups below.
  absl::Status DelegateControllers() const;

  // Removes the directory, when nothing runs in it any more; all figures read as 0 from then on.
  void Remove();

  // Kills every process in it, also those that are being forked (cgroup.kill).
  absl::Status Kill();
  // Stops every process in it and below, or lets them go on (cgroup.freeze). It takes a moment:
  // frozen() tells when nothing runs any more. Killing works on frozen processes too.
  absl::Status Freeze();
  absl::Status Thaw();
  // EPOLLPRI on this descriptor says that populated() or frozen() may have changed (cgroup-v2:
  // cgroup.events).
  int events_fd() const { return events_.get(); }
  bool populated() const;
  bool frozen() const;

  struct CpuTime {
    uint64_t user_ns = 0;
    uint64_t system_ns = 0;
  };
  CpuTime cpu_time() const;
  uint64_t memory_current_bytes() const;
  uint64_t memory_peak_bytes() const;  // Since it was made: 6.1 cannot reset it.
  uint64_t oom_kills() const;
  std::string processes() const;  // cgroup.procs: pids as the agent sees them, one a line.

 private:
  Cgroup(std::string path, UniqueFd directory, UniqueFd events)
      : path_(std::move(path)), directory_(std::move(directory)), events_(std::move(events)) {}
  std::string Read(absl::string_view file) const;  // Empty when it cannot be read.

  std::string path_;
  bool made_ = true;
  UniqueFd directory_;
  UniqueFd events_;
  UniqueFd freezer_;  // Kept from Freeze() on, so that Thaw() is one system call.
};

}  // namespace hearth::agent
