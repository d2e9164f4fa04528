// SPDX-License-Identifier: Apache-2.0
// libvirt, as far as Hearth needs it. Only hypervisor.cc, event_thread.cc and
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
#include "control-plane/backend/libvirt/domain_xml.h"
#include "vmm/base/unique_fd.h"

// libvirt's handles, as in libvirt.h.
struct _virConnect;
struct _virDomain;

namespace hearth::libvirt {

class EventThread;

enum class DomainEnd { kGuestReset, kDestroyed, kCrashed, kFailed };

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
  // OK, too, when it has ended already. The definition goes as well.
  absl::Status Destroy();

 private:
  _virDomain* domain_;
};

struct HypervisorOptions {
  std::string uri;
  // Both are called on libvirt's thread.
  std::function<void(const std::string& domain, DomainEnd end)> on_ended;
  std::function<void()> on_lost;  // The connection, and with it every domain.
};

// Thread-safe. One in a process: libvirt's event loop is the process's.
class Hypervisor {
 public:
  // Connects and asks libvirt whether it can run what DomainXml() describes, which has QEMU probed
  // once. UNAVAILABLE, with what to do, when that cannot be.
  static absl::StatusOr<std::unique_ptr<Hypervisor>> Open(HypervisorOptions options, bool kvm);
  ~Hypervisor();

  // Such as "libvirt 9.0.0, QEMU 7.2.11".
  const std::string& version() const { return version_; }
  bool embedded() const { return embedded_; }

  // Destroys the domains of ours that an earlier run left. How many there were.
  absl::StatusOr<int> RemoveLeftovers() ABSL_LOCKS_EXCLUDED(mutex_);
  // A domain that has not begun to run. `disks` are the files of spec.disks.
  absl::StatusOr<Domain> Create(const DomainSpec& spec, const std::vector<UniqueFd>& disks)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Hypervisor(HypervisorOptions options, bool embedded);
  absl::Status Connect() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Disconnect() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // With a reference of the caller's; connects again when the last connection was lost.
  absl::StatusOr<std::shared_ptr<_virConnect>> Connection() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Probe(bool kvm) ABSL_LOCKS_EXCLUDED(mutex_);

  const HypervisorOptions options_;
  const bool embedded_;
  std::string version_;
  std::unique_ptr<EventThread> events_;
  absl::Mutex mutex_;
  _virConnect* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int lifecycle_ ABSL_GUARDED_BY(mutex_) = -1;
};

}  // namespace hearth::libvirt
