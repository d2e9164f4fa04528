// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/saved_domain.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

// After sys/ioctl.h, whose macros it uses.
#include <linux/fs.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/read_at.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::libvirt {
namespace {

constexpr size_t kSendBytes = 1 << 20;

uint64_t MemoryBytes(const v1::SavedDomain& saved) { return uint64_t{saved.memory_mib()} << 20; }

uint64_t TailBytes(const v1::SavedDomain& saved) {
  return saved.image_bytes() - std::min(saved.image_bytes(), MemoryBytes(saved));
}

// The first `bytes` of `from` to where `to` stands.
absl::Status Copy(int from, int to, uint64_t bytes) {
  for (off_t offset = 0; bytes > 0;) {
    const ssize_t count = sendfile(to, from, &offset, std::min<uint64_t>(bytes, kSendBytes));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus("copying a domain's image");
    if (count == 0) return absl::DataLossError("a domain's image is shorter than it should be");
    bytes -= static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus("writing a saved domain");
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadBytes(int fd, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  RETURN_IF_ERROR(ReadAt(fd, offset, {bytes.data(), size}, "a saved domain's file"));
  return bytes;
}

absl::StatusOr<uint64_t> SizeOf(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat");
  uint64_t size = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode) && ioctl(fd, BLKGETSIZE64, &size) != 0) {
    return ErrnoStatus("a disk's size");
  }
  return size;
}

}  // namespace

absl::StatusOr<v1::SavedDomain> Describe(const DomainSpec& spec, const std::vector<UniqueFd>& disks,
                                         const std::string& hypervisor) {
  v1::SavedDomain saved;
  saved.set_format_version(kSavedDomainVersion);
  saved.set_hypervisor(hypervisor);
  saved.set_uuid(spec.uuid);
  saved.set_kvm(spec.kvm);
  saved.set_memory_mib(spec.memory_mib);
  saved.set_vcpu_count(spec.vcpu_count);
  saved.set_entropy(spec.entropy);
  saved.set_console(!spec.console_socket.empty());
  saved.set_vsock(spec.vsock_cid != 0);
  for (size_t i = 0; i < disks.size(); ++i) {
    v1::SavedDisk* const disk = saved.add_disks();
    disk->set_serial(spec.disks[i].serial);
    disk->set_read_only(spec.disks[i].read_only);
    ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(disks[i].get()));
    disk->set_bytes(bytes);
  }
  return saved;
}

absl::Status WriteSaved(v1::SavedDomain saved, const std::string& path, int state, int memory) {
  const UniqueFd image(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!image) return ErrnoStatus(absl::StrCat("opening ", path));
  ASSIGN_OR_RETURN(const uint64_t size, SizeOf(image.get()));
  saved.set_image_bytes(size);
  const uint64_t tail = TailBytes(saved);
  if (tail > kMaxImageTailBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the saved domain takes ", size,
                                                     " bytes; at most its memory and ",
                                                     kMaxImageTailBytes, " can be kept"));
  }
  if (ftruncate(memory, static_cast<off_t>(MemoryBytes(saved))) != 0) {
    return ErrnoStatus("sizing the memory file");
  }
  RETURN_IF_ERROR(Copy(image.get(), memory, size - tail));
  ASSIGN_OR_RETURN(*saved.mutable_image_tail(), ReadBytes(image.get(), size - tail, tail));
  return WriteAll(state, saved.SerializeAsString());
}

absl::StatusOr<v1::SavedDomain> ReadSaved(int state) {
  ASSIGN_OR_RETURN(const uint64_t size, SizeOf(state));
  if (size == 0 || size > wire::kMaxSavedStateBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a saved domain's state of ", size, " bytes"));
  }
  ASSIGN_OR_RETURN(const std::string bytes, ReadBytes(state, 0, size));
  v1::SavedDomain saved;
  if (!saved.ParseFromString(bytes) || saved.format_version() == 0) {
    return absl::InvalidArgumentError("the state is none of a saved domain");
  }
  if (saved.format_version() > kSavedDomainVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the saved domain has format ",
                                                      saved.format_version(),
                                                      ", written by a later "
                                                      "hearth-libvirt; this one knows ",
                                                      kSavedDomainVersion));
  }
  if (!IsUuid(saved.uuid())) return absl::InvalidArgumentError("the saved domain has no UUID");
  if (saved.memory_mib() < kMinGuestMemoryMib || saved.memory_mib() > kMaxGuestMemoryMib) {
    return absl::InvalidArgumentError(
        absl::StrCat("the saved domain has ", saved.memory_mib(), " MiB"));
  }
  const uint64_t tail = TailBytes(saved);
  if (saved.image_bytes() == 0 || tail > kMaxImageTailBytes || saved.image_tail().size() != tail) {
    return absl::InvalidArgumentError(
        absl::StrCat("the saved domain's image has ", saved.image_bytes(), " bytes, ",
                     saved.image_tail().size(), " of them in its state"));
  }
  return saved;
}

absl::Status CheckSaved(const v1::SavedDomain& saved, const std::string& hypervisor, bool kvm,
                        bool vsock, const std::vector<DiskSpec>& specs,
                        const std::vector<UniqueFd>& disks, bool console) {
  std::vector<std::string> differs;
  if (saved.hypervisor() != hypervisor) {
    differs.push_back(
        absl::StrCat("it was saved by ", saved.hypervisor(), ", this is ", hypervisor));
  }
  if (saved.kvm() != kvm) {
    differs.push_back(absl::StrCat("it ran ", saved.kvm() ? "on KVM" : "on an emulated processor"));
  }
  if (saved.vsock() && !vsock) differs.push_back("its agent's stream, which was vsock");
  if (saved.console() != console) differs.push_back("its console");
  if (static_cast<size_t>(saved.disks_size()) != specs.size()) {
    differs.push_back(absl::StrCat("it had ", saved.disks_size(), " disks, not ", specs.size()));
  } else {
    for (int i = 0; i < saved.disks_size(); ++i) {
      const v1::SavedDisk& disk = saved.disks(i);
      const auto at = static_cast<size_t>(i);
      ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(disks[at].get()));
      if (disk.serial() != specs[at].serial || disk.read_only() != specs[at].read_only ||
          disk.bytes() != bytes) {
        differs.push_back(absl::StrCat("disk ", i, " was '", disk.serial(), "' with ", disk.bytes(),
                                       " bytes, not '", specs[at].serial, "' with ", bytes));
      }
    }
  }
  if (differs.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the saved domain does not fit: ", absl::StrJoin(differs, "; ")));
}

absl::Status WriteImage(const v1::SavedDomain& saved, int memory, const std::string& path) {
  ASSIGN_OR_RETURN(const uint64_t size, SizeOf(memory));
  if (size != MemoryBytes(saved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the memory file has ", size, " bytes, not ", MemoryBytes(saved)));
  }
  const UniqueFd image(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!image) return ErrnoStatus(absl::StrCat("making ", path));
  RETURN_IF_ERROR(Copy(memory, image.get(), saved.image_bytes() - TailBytes(saved)));
  return WriteAll(image.get(), saved.image_tail());
}

}  // namespace hearth::libvirt
