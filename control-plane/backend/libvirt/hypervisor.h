// SPDX-License-Identifier: Apache-2.0
// libvirt, as far as Hearth needs it. Only hypervisor.cc, connection.cc, event_thread.cc and
// host_cpu.cc call it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/backend/libvirt/block_bytes.h"
#include "control-plane/backend/libvirt/connection.h"
#include "control-plane/backend/libvirt/domain_xml.h"
#include "vmm/base/unique_fd.h"

namespace hearth::libvirt {

class EventThread;

enum class DomainEnd { kGuestReset, kDestroyed, kSaved, kCrashed, kFailed };

// A domain that runs or is suspended. Used by one thread at a time. Forgotten, not destroyed, when
// this goes.
class Domain {
 public:
  explicit Domain(_virDomain* domain) : domain_(domain) {}
  Domain(Domain&& other) noexcept : domain_(std::exchange(other.domain_, nullptr)) {}
  Domain& operator=(Domain&& other) noexcept;
  ~Domain();

  absl::Status Resume();
  absl::Status Suspend();
  // Writes its image to `path`, which ends it.
  absl::Status Save(const std::string& path);
  // OK, too, when it has ended already. The definition goes as well.
  absl::Status Destroy();
  // What the guest has read from its disks and written to them. FAILED_PRECONDITION when it has
  // ended.
  absl::StatusOr<BlockBytes> GetBlockBytes();

 private:
  _virDomain* domain_;
};

struct HypervisorOptions {
  std::string uri;
  std::string owner;  // OwnerTag(): whose domains are ours.
  // Both are called on libvirt's thread.
  std::function<void(const std::string& domain, DomainEnd end)> on_ended;
  std::function<void()> on_lost;  // The connection, and with it every domain. Any thread.
  std::function<void(const std::string&)> log;  // Any thread.
};

// Thread-safe. One in a process: libvirt's event loop is the process's.
class Hypervisor {
 public:
  static absl::StatusOr<std::unique_ptr<Hypervisor>> Create(HypervisorOptions options, bool kvm);
  ~Hypervisor();

  // Connects if need be, which everything else here does as well. With each new connection libvirt
  // is asked whether it can run what DomainXml() describes, which has QEMU probed once, and the
  // domains of ours that are there from before are destroyed. UNAVAILABLE, with what to do: its
  // daemon does not answer, the next call tries again.
  absl::Status Connect() { return Connection().status(); }

  // Such as "libvirt 9.0.0, QEMU 7.2.11"; empty before the first connection.
  std::string version() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool embedded() const { return embedded_; }

  // A domain that has not begun to run. `disks` are the files of spec.disks.
  absl::StatusOr<Domain> Create(const DomainSpec& spec, const std::vector<UniqueFd>& disks);
  // The domain of that uuid as Save() left it, suspended. `spec` without a kernel.
  absl::StatusOr<Domain> Restore(const DomainSpec& spec, const std::vector<UniqueFd>& disks,
                                 const std::string& image);

 private:
  // Has the domain defined while `start`, which is told its description, makes it run.
  using Starter = std::function<absl::Status(_virConnect* connection, _virDomain* domain,
                                             const std::string& xml)>;
  absl::StatusOr<Domain> Make(const DomainSpec& spec, const std::vector<UniqueFd>& disks,
                              const Starter& start);
  Hypervisor(HypervisorOptions options, bool kvm);
  absl::StatusOr<std::shared_ptr<_virConnect>> Connection() { return connection_->Get(); }
  absl::Status Prepare(_virConnect* connection);  // A new one.
  absl::Status Probe(_virConnect* connection) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status RemoveLeftovers(_virConnect* connection);
  bool IsOurs(_virDomain* domain) const;
  void OnLifecycle(_virDomain* domain, int event, int detail) const;

  const HypervisorOptions options_;
  const bool kvm_;
  const bool embedded_;
  std::unique_ptr<EventThread> events_;
  std::shared_ptr<libvirt::Connection> connection_;
  mutable absl::Mutex mutex_;
  std::string version_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace hearth::libvirt
