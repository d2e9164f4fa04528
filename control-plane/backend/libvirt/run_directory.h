// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

// Where one hearth-libvirt keeps its files:
//   lock       held while it runs; it stays, for whoever waits at the door holds it open
//   machines/  the sockets of the machines, made by libvirt; images on their way
//   kernels/   by SHA-256: QEMU takes no descriptor for a kernel
//   embed/     the embedded driver's root; embed/cache keeps what probing QEMU found (seconds)
// Thread-safe.
class RunDirectory {
 public:
  // Makes it, takes the lock and removes what an earlier run left in machines/ and kernels/.
  // `shared`: a QEMU of another user is to reach its files.
  static absl::StatusOr<std::unique_ptr<RunDirectory>> Open(const std::string& path, bool shared);
  // Removes all but the lock and the embedded driver's configuration and cache.
  ~RunDirectory();

  const std::string& path() const { return path_; }
  // Where the embedded driver has its root when nobody says otherwise.
  std::string EmbeddedFolder() const { return path_ + "/embed"; }
  // Makes a root for the embedded driver, configures it and keeps others out while this is there. A
  // configuration that is not ours stays as it is. INVALID_ARGUMENT: it is no absolute path.
  absl::Status PrepareEmbedded(const std::string& root);
  std::string AgentSocket(const std::string& domain) const;
  std::string ConsoleSocket(const std::string& domain) const;
  // Where a domain's image is while it is saved or restored.
  std::string ImageFile(const std::string& domain) const;
  // A file with what the descriptor's file holds. INVALID_ARGUMENT: it is no kernel's size.
  absl::StatusOr<std::string> Kernel(int fd) ABSL_LOCKS_EXCLUDED(mutex_);
  void RemoveFiles(const std::string& domain) const;

 private:
  RunDirectory(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  absl::StatusOr<std::string> Copy(int fd, uint64_t size);

  const std::string path_;
  const UniqueFd lock_;
  UniqueFd embedded_lock_;
  absl::Mutex mutex_;
  // Files that were copied, by identity: device, inode, size and times.
  std::map<std::string, std::string> copied_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::libvirt
