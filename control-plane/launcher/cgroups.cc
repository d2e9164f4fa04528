// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/cgroups.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "control-plane/launcher/limits.h"

namespace hearth::launcher {
namespace {

constexpr char kVmPrefix[] = "vm-";
// How long the killed processes of an earlier launcher may take to go.
constexpr int kLeftoverTimeoutMs = 10'000;

std::string FindMount() {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    // "36 35 98:0 /root /mount/point options - type source ..." (proc(5))
    if (!absl::StrContains(line, " - cgroup2 ")) continue;
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() > 4) return fields[4];
  }
  return "";
}

absl::Status WriteAt(int folder, const char* file, absl::string_view text) {
  const UniqueFd fd(openat(folder, file, O_WRONLY | O_CLOEXEC));
  if (!fd || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(absl::StrCat("writing '", text, "' to a cgroup's ", file));
  }
  return absl::OkStatus();
}

std::string ReadAt(int folder, const char* file) {
  const UniqueFd fd(openat(folder, file, O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> text;
  const ssize_t count = fd ? read(fd.get(), text.data(), text.size()) : -1;
  return count > 0 ? std::string(text.data(), static_cast<size_t>(count)) : "";
}

absl::Status WriteMemoryMax(int folder, uint64_t memory_mib) {
  const uint64_t limit_mib = memory_mib + memory_mib / kOverheadGuestShare + kOverheadMib;
  return WriteAt(folder, "memory.max", absl::StrCat(limit_mib, "M"));
}

// Waits until no process is left in the cgroup (cgroup-v2.rst, cgroup.events: a change is POLLPRI).
void AwaitEmpty(int folder) {
  const UniqueFd events(openat(folder, "cgroup.events", O_RDONLY | O_CLOEXEC));
  std::array<char, 256> text;
  while (events) {
    const ssize_t count = pread(events.get(), text.data(), text.size(), 0);
    if (count <= 0 || absl::StrContains(absl::string_view(text.data(), static_cast<size_t>(count)),
                                        "populated 0")) {
      return;
    }
    pollfd changed{events.get(), POLLPRI, 0};
    if (poll(&changed, 1, kLeftoverTimeoutMs) <= 0) return;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Cgroups>> Cgroups::Create(const std::string& name) {
  const std::string mount = FindMount();
  if (mount.empty()) return std::unique_ptr<Cgroups>();
  UniqueFd parent(open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent) return ErrnoStatus(absl::StrCat("opening ", mount));
  const std::string controllers = ReadAt(parent.get(), "cgroup.controllers");
  if (!absl::StrContains(controllers, "memory") || !absl::StrContains(controllers, "pids")) {
    return std::unique_ptr<Cgroups>();
  }
  RETURN_IF_ERROR(WriteAt(parent.get(), "cgroup.subtree_control", "+memory +pids"));
  if (mkdirat(parent.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("making the cgroup ", mount, "/", name));
  }
  UniqueFd root(openat(parent.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoStatus(absl::StrCat("opening the cgroup ", mount, "/", name));
  if (flock(root.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("another hearth-launcher uses the cgroup ", mount,
                                                 "/", name, "; --cgroup names another"));
  }
  std::unique_ptr<Cgroups> cgroups(new Cgroups(std::move(parent), std::move(root), name));
  RETURN_IF_ERROR(cgroups->RemoveLeftovers());
  RETURN_IF_ERROR(WriteAt(cgroups->root_.get(), "cgroup.subtree_control", "+memory +pids"));
  return cgroups;
}

Cgroups::~Cgroups() { unlinkat(parent_.get(), name_.c_str(), AT_REMOVEDIR); }

absl::Status Cgroups::RemoveLeftovers() {
  DIR* const folder = fdopendir(openat(root_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder == nullptr) return ErrnoStatus("listing cgroups");
  std::vector<std::string> left;
  while (const dirent* entry = readdir(folder)) {
    if (absl::StartsWith(entry->d_name, kVmPrefix)) left.push_back(entry->d_name);
  }
  closedir(folder);
  for (const std::string& name : left) {
    const UniqueFd child(openat(root_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!child) continue;
    RETURN_IF_ERROR(WriteAt(child.get(), "cgroup.kill", "1"));
    AwaitEmpty(child.get());
    if (unlinkat(root_.get(), name.c_str(), AT_REMOVEDIR) != 0) {
      return ErrnoStatus(absl::StrCat("removing the cgroup ", name, " of an earlier launcher"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Cgroups::Make(uint64_t number, uint64_t memory_mib) {
  for (auto it = stuck_.begin(); it != stuck_.end();) {
    const bool removed = unlinkat(root_.get(), it->c_str(), AT_REMOVEDIR) == 0;
    it = removed ? stuck_.erase(it) : std::next(it);
  }
  const std::string name = absl::StrCat(kVmPrefix, number);
  if (mkdirat(root_.get(), name.c_str(), 0755) != 0) return ErrnoStatus("making a VMM's cgroup");
  UniqueFd folder(openat(root_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  absl::Status made = folder ? absl::OkStatus() : ErrnoStatus("opening a VMM's cgroup");
  if (made.ok() && memory_mib != 0) made = WriteMemoryMax(folder.get(), memory_mib);
  if (made.ok()) made = WriteAt(folder.get(), "pids.max", absl::StrCat(kMaxThreads));
  if (!made.ok()) {
    unlinkat(root_.get(), name.c_str(), AT_REMOVEDIR);
    return made;
  }
  return folder;
}

absl::Status Cgroups::SetMemory(uint64_t number, uint64_t memory_mib) {
  const std::string name = absl::StrCat(kVmPrefix, number);
  const UniqueFd folder(openat(root_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return ErrnoStatus("opening a VMM's cgroup");
  return WriteMemoryMax(folder.get(), memory_mib);
}

void Cgroups::Remove(uint64_t number) {
  const std::string name = absl::StrCat(kVmPrefix, number);
  if (unlinkat(root_.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    stuck_.insert(name);
  }
}

}  // namespace hearth::launcher
