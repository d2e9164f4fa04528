// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/run_directory.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

namespace fs = std::filesystem;

constexpr char kMachines[] = "/machines";
constexpr char kKernels[] = "/kernels";
constexpr size_t kDomainNameBytes = 43;  // "hearth-" and a UUID.
constexpr size_t kMaxRunDirectoryBytes =
    sizeof(sockaddr_un::sun_path) - sizeof("/machines/.console") - kDomainNameBytes;
constexpr size_t kCopyBytes = 256 * 1024;

// QEMU's user is ours, libvirt leaves owners, labels and cgroups alone, and QEMU's words go to a
// file, for there is no daemon that would take them.
constexpr char kQemuConf[] =
    "user = \"root\"\n"
    "group = \"root\"\n"
    "dynamic_ownership = 0\n"
    "remember_owner = 0\n"
    "security_driver = \"none\"\n"
    "cgroup_controllers = []\n"
    "namespaces = []\n"
    "stdio_handler = \"file\"\n";

absl::Status MakeFolder(const std::string& path, mode_t mode) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("making ", path));
  if (chmod(path.c_str(), mode) != 0) return ErrnoStatus(absl::StrCat("chmod ", path));
  return absl::OkStatus();
}

// One that is there keeps its mode.
absl::Status MakeMissing(const std::string& path) {
  return access(path.c_str(), F_OK) == 0 ? absl::OkStatus() : MakeFolder(path, 0700);
}

// Never unlinked: who has opened the file meanwhile would lock one that nobody else sees.
absl::StatusOr<UniqueFd> Lock(const std::string& folder, absl::string_view instead) {
  const std::string path = folder + "/lock";
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return ErrnoStatus(absl::StrCat("opening ", path));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  return absl::AlreadyExistsError(
      absl::StrCat("another hearth-libvirt uses ", folder, "; choose ", instead));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunDirectory>> RunDirectory::Open(const std::string& path,
                                                                 bool shared) {
  const std::string folder = fs::absolute(path).lexically_normal().string();
  if (folder.size() > kMaxRunDirectoryBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--run-directory: ", folder, " is over ",
                                                   kMaxRunDirectoryBytes,
                                                   " bytes, too long for the sockets in it"));
  }
  const mode_t mode = shared ? 0711 : 0700;
  RETURN_IF_ERROR(MakeFolder(folder, mode));
  ASSIGN_OR_RETURN(UniqueFd lock, Lock(folder, "another --run-directory"));
  std::error_code ignored;
  fs::remove_all(folder + kMachines, ignored);
  fs::remove_all(folder + kKernels, ignored);
  RETURN_IF_ERROR(MakeFolder(folder + kMachines, mode));
  RETURN_IF_ERROR(MakeFolder(folder + kKernels, mode));
  return std::unique_ptr<RunDirectory>(new RunDirectory(folder, std::move(lock)));
}

RunDirectory::~RunDirectory() {
  std::error_code ignored;
  fs::remove_all(path_ + kMachines, ignored);
  fs::remove_all(path_ + kKernels, ignored);
  for (const char* part : {"/embed/run", "/embed/lib", "/embed/log"}) {
    fs::remove_all(path_ + part, ignored);
  }
}

absl::Status RunDirectory::PrepareEmbedded(const std::string& root) {
  if (!fs::path(root).is_absolute()) {
    return absl::InvalidArgumentError(
        "--uri: the embedded driver needs a folder: qemu:///embed?root=/FOLDER");
  }
  RETURN_IF_ERROR(MakeMissing(root));
  ASSIGN_OR_RETURN(embedded_lock_, Lock(root, "--uri with another root"));
  RETURN_IF_ERROR(MakeMissing(root + "/etc"));
  const std::string path = root + "/etc/qemu.conf";
  if (root != EmbeddedFolder() && access(path.c_str(), F_OK) == 0) return absl::OkStatus();
  std::ofstream conf(path, std::ios::trunc);
  conf << kQemuConf;
  conf.close();
  if (!conf) return absl::InternalError(absl::StrCat("writing ", path));
  return absl::OkStatus();
}

std::string RunDirectory::AgentSocket(const std::string& domain) const {
  return absl::StrCat(path_, kMachines, "/", domain, ".agent");
}

std::string RunDirectory::ConsoleSocket(const std::string& domain) const {
  return absl::StrCat(path_, kMachines, "/", domain, ".console");
}

std::string RunDirectory::ImageFile(const std::string& domain) const {
  return absl::StrCat(path_, kMachines, "/", domain, ".image");
}

void RunDirectory::RemoveFiles(const std::string& domain) const {
  unlink(ImageFile(domain).c_str());
  unlink(AgentSocket(domain).c_str());
  unlink(ConsoleSocket(domain).c_str());
}

absl::StatusOr<std::string> RunDirectory::Kernel(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus("fstat of the kernel");
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || size == 0 || size > kMaxKernelBytes) {
    return absl::InvalidArgumentError("the kernel is no file of a kernel's size");
  }
  const std::string identity =
      absl::StrCat(info.st_dev, ":", info.st_ino, ":", size, ":", info.st_mtim.tv_sec, ".",
                   info.st_mtim.tv_nsec, ":", info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec);
  // Whoever comes meanwhile waits, and finds it copied.
  absl::MutexLock lock(&mutex_);
  const auto known = copied_.find(identity);
  if (known != copied_.end()) return known->second;
  ASSIGN_OR_RETURN(std::string copy, Copy(fd, size));
  return copied_[identity] = std::move(copy);
}

absl::StatusOr<std::string> RunDirectory::Copy(int fd, uint64_t size) {
  const std::string part = absl::StrCat(path_, kKernels, "/part");
  const UniqueFd file(open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return ErrnoStatus(absl::StrCat("making ", part));
  if (fchmod(file.get(), 0644) != 0) return ErrnoStatus("fchmod of a kernel's copy");
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest(EVP_MD_CTX_new(),
                                                                  EVP_MD_CTX_free);
  EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr);
  std::vector<char> buffer(kCopyBytes);
  for (uint64_t at = 0; at < size;) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus("reading the kernel");
    if (got == 0) return absl::DataLossError("the kernel's file was cut while it was read");
    for (ssize_t done = 0; done < got;) {
      const ssize_t wrote =
          write(file.get(), buffer.data() + done, static_cast<size_t>(got - done));
      if (wrote < 0 && errno != EINTR) return ErrnoStatus(absl::StrCat("writing ", part));
      if (wrote > 0) done += wrote;
    }
    EVP_DigestUpdate(digest.get(), buffer.data(), static_cast<size_t>(got));
    at += static_cast<uint64_t>(got);
  }
  std::array<char, EVP_MAX_MD_SIZE> hash;
  unsigned hash_bytes = 0;
  EVP_DigestFinal_ex(digest.get(), reinterpret_cast<unsigned char*>(hash.data()), &hash_bytes);
  const std::string name =
      absl::StrCat(path_, kKernels, "/", absl::BytesToHexString({hash.data(), hash_bytes}));
  if (rename(part.c_str(), name.c_str()) != 0) return ErrnoStatus(absl::StrCat("naming ", name));
  return name;
}

}  // namespace hearth::libvirt
