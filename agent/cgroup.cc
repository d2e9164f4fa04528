// SPDX-License-Identifier: Apache-2.0
#include "agent/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "agent/files.h"
#include "vmm/base/status.h"

namespace hearth::agent {

absl::StatusOr<Cgroup> Cgroup::Create(const std::string& path) {
  if (mkdir(path.c_str(), 0755) != 0) return ErrnoStatus(absl::StrCat("mkdir ", path));
  UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  UniqueFd events(open(absl::StrCat(path, "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC));
  if (!directory || !events) {
    const absl::Status status = ErrnoStatus(absl::StrCat("open the cgroup ", path));
    rmdir(path.c_str());
    return status;
  }
  return Cgroup(path, std::move(directory), std::move(events));
}

absl::StatusOr<Cgroup> Cgroup::Open(const std::string& path) {
  UniqueFd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return ErrnoStatus(absl::StrCat("open the cgroup ", path));
  Cgroup cgroup(path, std::move(directory), UniqueFd());
  cgroup.made_ = false;
  return cgroup;
}

Cgroup::~Cgroup() { Remove(); }

void Cgroup::Remove() {
  if (!directory_) return;
  directory_.reset();
  events_.reset();
  freezer_.reset();
  if (made_) rmdir(path_.c_str());
}

absl::Status Cgroup::SetLimits(const CgroupLimits& limits) {
  if (limits.memory_bytes != 0) {
    RETURN_IF_ERROR(
        WriteSmallFile(absl::StrCat(path_, "/memory.max"), absl::StrCat(limits.memory_bytes)));
  }
  if (limits.process_count != 0) {
    RETURN_IF_ERROR(
        WriteSmallFile(absl::StrCat(path_, "/pids.max"), absl::StrCat(limits.process_count)));
  }
  return absl::OkStatus();
}

absl::Status Cgroup::KillTogetherWhenOutOfMemory() {
  const std::string file = absl::StrCat(path_, "/memory.oom.group");
  if (access(file.c_str(), F_OK) != 0) return absl::OkStatus();
  return WriteSmallFile(file, "1");
}

bool Cgroup::HasController(absl::string_view name) const {
  const std::string controllers = Read("cgroup.controllers");
  for (absl::string_view known :
       absl::StrSplit(controllers, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    if (known == name) return true;
  }
  return false;
}

absl::Status Cgroup::DelegateControllers() const {
  for (absl::string_view name : {"memory", "pids", "cpu"}) {
    if (!HasController(name)) continue;
    RETURN_IF_ERROR(
        WriteSmallFile(absl::StrCat(path_, "/cgroup.subtree_control"), absl::StrCat("+", name)));
  }
  return absl::OkStatus();
}

absl::Status Cgroup::Kill() { return WriteSmallFile(absl::StrCat(path_, "/cgroup.kill"), "1"); }

absl::Status Cgroup::Freeze() {
  const std::string path = absl::StrCat(path_, "/cgroup.freeze");
  if (!freezer_) freezer_.reset(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!freezer_ || pwrite(freezer_.get(), "1", 1, 0) != 1) {
    return ErrnoStatus(absl::StrCat("write ", path));
  }
  return absl::OkStatus();
}

absl::Status Cgroup::Thaw() {
  if (!freezer_) return absl::OkStatus();
  if (pwrite(freezer_.get(), "0", 1, 0) != 1) return ErrnoStatus("thaw a cgroup");
  return absl::OkStatus();
}

std::string Cgroup::Read(absl::string_view file) const {
  absl::StatusOr<std::string> text = ReadSmallFile(absl::StrCat(path_, "/", file));
  return text.ok() ? *std::move(text) : std::string();
}

bool Cgroup::populated() const {
  absl::StatusOr<std::string> text = ReadSmallFd(events_.get());
  return text.ok() && NumberAfter(*text, "populated") != 0;
}

bool Cgroup::frozen() const {
  absl::StatusOr<std::string> text = ReadSmallFd(events_.get());
  return text.ok() && NumberAfter(*text, "frozen") != 0;
}

Cgroup::CpuTime Cgroup::cpu_time() const {
  const std::string text = Read("cpu.stat");
  return {NumberAfter(text, "user_usec") * 1000, NumberAfter(text, "system_usec") * 1000};
}

uint64_t Cgroup::memory_current_bytes() const {
  return NumberAfter(absl::StrCat("v ", Read("memory.current")), "v");
}
uint64_t Cgroup::memory_peak_bytes() const {
  return NumberAfter(absl::StrCat("v ", Read("memory.peak")), "v");
}
uint64_t Cgroup::oom_kills() const { return NumberAfter(Read("memory.events"), "oom_kill"); }
std::string Cgroup::processes() const { return Read("cgroup.procs"); }

}  // namespace hearth::agent
