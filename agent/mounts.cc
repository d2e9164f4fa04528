// SPDX-License-Identifier: Apache-2.0
#include "agent/mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "agent/context.h"
#include "agent/files.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::agent {

using agent::v1::Mount;

namespace {

constexpr char kRuntimeMount[] = "/runtime";
constexpr char kWritableMount[] = "/mnt";

absl::Status DoMount(const std::string& source, const std::string& target, const char* type,
                     unsigned long flags, const std::string& options = "") {
  if (mount(source.c_str(), target.c_str(), type, flags, options.c_str()) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(
      absl::StrCat("mount ", source, " (", type == nullptr ? "bind" : type, ") at ", target));
}

// EBUSY: the kernel mounted it already (CONFIG_DEVTMPFS_MOUNT).
absl::Status MountOnce(const char* type, const std::string& target, unsigned long flags,
                       const std::string& options = "") {
  if (mount(type, target.c_str(), type, flags, options.c_str()) == 0 || errno == EBUSY) {
    return absl::OkStatus();
  }
  return ErrnoStatus(absl::StrCat("mount ", type, " at ", target));
}

absl::Status MakeDirectory(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("mkdir ", path));
  }
  // Not subject to the umask.
  if (chmod(path.c_str(), mode) != 0) return ErrnoStatus(absl::StrCat("chmod ", path));
  return absl::OkStatus();
}

// A directory that the runtime's image may have; made in the overlay when it has not.
absl::Status EnsureDirectory(const std::string& path, mode_t mode) {
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
  return MakeDirectory(path, mode);
}

absl::Status MakeDevices(const std::string& root) {
  const std::string dev = absl::StrCat(root, "/dev");
  RETURN_IF_ERROR(EnsureDirectory(dev, 0755));
  RETURN_IF_ERROR(DoMount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755"));
  struct Node {
    const char* name;
    unsigned minor;
  };
  for (const Node node :
       {Node{"null", 3}, Node{"zero", 5}, Node{"full", 7}, Node{"random", 8}, Node{"urandom", 9}}) {
    const std::string path = absl::StrCat(dev, "/", node.name);
    if (mknod(path.c_str(), S_IFCHR | 0666, makedev(1, node.minor)) != 0 ||
        chmod(path.c_str(), 0666) != 0) {
      return ErrnoStatus(absl::StrCat("mknod ", path));
    }
  }
  struct Link {
    const char* name;
    const char* target;
  };
  for (const Link link : {Link{"fd", "/proc/self/fd"}, Link{"stdin", "/proc/self/fd/0"},
                          Link{"stdout", "/proc/self/fd/1"}, Link{"stderr", "/proc/self/fd/2"}}) {
    const std::string path = absl::StrCat(dev, "/", link.name);
    if (symlink(link.target, path.c_str()) != 0) return ErrnoStatus(absl::StrCat("link ", path));
  }
  RETURN_IF_ERROR(MakeDirectory(absl::StrCat(dev, "/shm"), 01777));
  // Shared memory counts as writable storage, so it lies in the same limited tmpfs.
  RETURN_IF_ERROR(
      DoMount(absl::StrCat(kWritableMount, "/shm"), absl::StrCat(dev, "/shm"), nullptr, MS_BIND));
  return DoMount("tmpfs", dev, "tmpfs", MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC,
                 "size=64k,mode=0755");
}

absl::Status MountDisk(const Mount& disk, const std::string& target) {
  if (disk.filesystem() != "erofs" && disk.filesystem() != "squashfs") {
    return absl::InvalidArgumentError(absl::StrCat("disk ", disk.disk_serial(), ": a file system ",
                                                   disk.filesystem(),
                                                   "; erofs and squashfs can be mounted"));
  }
  ASSIGN_OR_RETURN(const std::string device, FindDisk(disk.disk_serial()));
  return DoMount(device, target, disk.filesystem().c_str(), MS_RDONLY | MS_NODEV | MS_NOSUID);
}

}  // namespace

absl::Status MountSystem() {
  const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  RETURN_IF_ERROR(MountOnce("proc", "/proc", safe));
  RETURN_IF_ERROR(MountOnce("sysfs", "/sys", safe));
  RETURN_IF_ERROR(MountOnce("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC));
  RETURN_IF_ERROR(MountOnce("tmpfs", "/run", MS_NOSUID | MS_NODEV, "size=1m,mode=0755"));
  return MountOnce("cgroup2", kCgroupMount, safe);
}

absl::StatusOr<std::string> FindDisk(absl::string_view serial, const std::string& sys_block) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(sys_block.c_str()), closedir);
  if (directory == nullptr) return ErrnoStatus(absl::StrCat("open ", sys_block));
  std::vector<std::string> found;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (!absl::StartsWith(name, "vd")) continue;
    const absl::StatusOr<std::string> text =
        ReadSmallFile(absl::StrCat(sys_block, "/", name, "/serial"));
    if (!text.ok()) continue;
    const absl::string_view its_serial = absl::StripAsciiWhitespace(*text);
    if (its_serial == serial) return absl::StrCat("/dev/", name);
    found.push_back(absl::StrCat(name, "=", its_serial));
  }
  std::sort(found.begin(), found.end());
  return absl::NotFoundError(absl::StrCat("no disk with serial number ", serial,
                                          "; there are: ", absl::StrJoin(found, " ")));
}

absl::Status MountUserRoot(const agent::v1::ConfigureInstance& configure, uint64_t writable_bytes) {
  const Mount* runtime = nullptr;
  const Mount* code = nullptr;
  for (const Mount& disk : configure.mounts()) {
    if (disk.role() == Mount::ROLE_RUNTIME) runtime = &disk;
    if (disk.role() == Mount::ROLE_CODE) code = &disk;
  }
  if (runtime == nullptr) return absl::InvalidArgumentError("no disk has the runtime's role");
  RETURN_IF_ERROR(MountDisk(*runtime, kRuntimeMount));

  const std::string writable = kWritableMount;
  RETURN_IF_ERROR(DoMount("tmpfs", writable, "tmpfs", MS_NOSUID | MS_NODEV,
                          absl::StrCat("mode=0755,size=", writable_bytes)));
  RETURN_IF_ERROR(MakeDirectory(writable + "/upper", 0755));
  RETURN_IF_ERROR(MakeDirectory(writable + "/work", 0755));
  RETURN_IF_ERROR(MakeDirectory(writable + "/shm", 01777));
  const std::string root = kUserRoot;
  RETURN_IF_ERROR(MakeDirectory(root, 0755));
  RETURN_IF_ERROR(DoMount("overlay", root, "overlay", MS_NOSUID | MS_NODEV,
                          absl::StrCat("lowerdir=", kRuntimeMount, ",upperdir=", writable,
                                       "/upper,workdir=", writable, "/work")));
  RETURN_IF_ERROR(EnsureDirectory(root + "/proc", 0555));
  RETURN_IF_ERROR(MakeDirectory(root + "/tmp", 01777));
  RETURN_IF_ERROR(EnsureDirectory(root + "/etc", 0755));
  RETURN_IF_ERROR(EnsureDirectory(root + "/var", 0755));
  RETURN_IF_ERROR(MakeDirectory(root + "/var/tmp", 01777));
  RETURN_IF_ERROR(EnsureDirectory(root + kTaskRoot, 0755));
  if (code != nullptr) RETURN_IF_ERROR(MountDisk(*code, root + kTaskRoot));
  return MakeDevices(root);
}

absl::Status MountFile(const std::string& file, const std::string& target) {
  const UniqueFd made(open(target.c_str(), O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0444));
  if (!made) return ErrnoStatus(absl::StrCat("open ", target));
  return DoMount(file, target, nullptr, MS_BIND);
}

}  // namespace hearth::agent
