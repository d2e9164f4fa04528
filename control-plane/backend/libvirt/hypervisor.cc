// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/hypervisor.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/embedded_uri.h"
#include "control-plane/backend/libvirt/event_thread.h"
#include "control-plane/backend/libvirt/qemu_process.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

DomainEnd EndOf(int event, int detail) {
  if (event == VIR_DOMAIN_EVENT_CRASHED) return DomainEnd::kCrashed;
  switch (detail) {
    case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
      return DomainEnd::kGuestReset;
    case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
      return DomainEnd::kDestroyed;
    case VIR_DOMAIN_EVENT_STOPPED_SAVED:
      return DomainEnd::kSaved;
    case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
      return DomainEnd::kCrashed;
    default:
      return DomainEnd::kFailed;
  }
}

// Why a call on this connection has just failed.
absl::Status FailedOn(virConnectPtr connection, absl::string_view what) {
  absl::Status status = LastError(what);
  if (virConnectIsAlive(connection) == 1) return status;
  return absl::UnavailableError(
      absl::StrCat("the connection to libvirt was lost: ", status.message()));
}

std::string Dotted(unsigned long version) {
  return absl::StrCat(version / 1'000'000, ".", version / 1000 % 1000, ".", version % 1000);
}

}  // namespace

Domain& Domain::operator=(Domain&& other) noexcept {
  std::swap(domain_, other.domain_);
  return *this;
}

Domain::~Domain() {
  if (domain_ != nullptr) virDomainFree(domain_);
}

absl::Status Domain::Resume() {
  return virDomainResume(domain_) == 0 ? absl::OkStatus() : LastError("resuming a domain");
}

absl::Status Domain::Suspend() {
  return virDomainSuspend(domain_) == 0 ? absl::OkStatus() : LastError("suspending a domain");
}

absl::Status Domain::Save(const std::string& path) {
  return virDomainSaveFlags(domain_, path.c_str(), nullptr, VIR_DOMAIN_SAVE_PAUSED) == 0
             ? absl::OkStatus()
             : LastError("saving a domain");
}

absl::Status Domain::Destroy() {
  if (virDomainDestroy(domain_) == 0) return absl::OkStatus();
  absl::Status failed = LastError("destroying a domain");
  // It is not there any more, or not running.
  if (absl::IsNotFound(failed) || absl::IsFailedPrecondition(failed)) return absl::OkStatus();
  return failed;
}

// By QEMU's own monitor, for libvirt 9.0's virDomainBlockStats fails for the disks of a microvm.
absl::StatusOr<BlockBytes> Domain::GetBlockBytes() {
  char* text = nullptr;
  if (virDomainQemuMonitorCommand(domain_, kQueryBlockStats, &text, 0) != 0) {
    return LastError("asking QEMU for its disks' figures");
  }
  const std::unique_ptr<char, void (*)(void*)> answer(text, free);
  return ParseBlockBytes(answer.get());
}

Hypervisor::Hypervisor(HypervisorOptions options, bool kvm)
    : options_(std::move(options)), kvm_(kvm), embedded_(IsEmbedded(options_.uri)) {
  ConnectionOptions connection;
  connection.uri = options_.uri;
  connection.embedded = embedded_;
  connection.prepare = [this](_virConnect* made) { return Prepare(made); };
  connection.on_event = [this](_virDomain* domain, int event, int detail) {
    OnLifecycle(domain, event, detail);
  };
  connection.on_lost = options_.on_lost;
  connection_ = Connection::Create(std::move(connection));
}

absl::StatusOr<std::unique_ptr<Hypervisor>> Hypervisor::Create(HypervisorOptions options,
                                                               bool kvm) {
  std::unique_ptr<Hypervisor> hypervisor(new Hypervisor(std::move(options), kvm));
  ASSIGN_OR_RETURN(hypervisor->events_, EventThread::Start());
  return hypervisor;
}

Hypervisor::~Hypervisor() { connection_->Close(); }

std::string Hypervisor::version() const {
  absl::MutexLock lock(&mutex_);
  return version_;
}

void Hypervisor::OnLifecycle(_virDomain* domain, int event, int detail) const {
  if (event != VIR_DOMAIN_EVENT_STOPPED && event != VIR_DOMAIN_EVENT_CRASHED) return;
  const char* const name = virDomainGetName(domain);
  if (name != nullptr && absl::StartsWith(name, kDomainPrefix)) {
    options_.on_ended(name, EndOf(event, detail));
  }
}

absl::Status Hypervisor::Prepare(_virConnect* connection) {
  RETURN_IF_ERROR(Probe(connection));
  return RemoveLeftovers(connection);
}

absl::Status Hypervisor::Probe(_virConnect* connection) {
  unsigned long libvirt = 0, qemu = 0;
  if (virConnectGetLibVersion(connection, &libvirt) != 0) return LastError("libvirt");
  char* const abilities = virConnectGetDomainCapabilities(connection, nullptr, "x86_64", "microvm",
                                                          kvm_ ? "kvm" : "qemu", 0);
  if (abilities == nullptr) {
    return Annotate(LastError(kvm_ ? "with KVM" : "without KVM"),
                    "QEMU here cannot run machines of type microvm; install qemu-system-x86");
  }
  free(abilities);
  if (virConnectGetVersion(connection, &qemu) != 0) qemu = 0;
  absl::MutexLock lock(&mutex_);
  version_ = absl::StrCat("libvirt ", Dotted(libvirt), ", QEMU ", Dotted(qemu));
  return absl::OkStatus();
}

// An operator's domains, and those of another hearth-libvirt with this daemon, are not.
bool Hypervisor::IsOurs(_virDomain* domain) const {
  const char* const name = virDomainGetName(domain);
  if (name == nullptr || !IsDomainName(name)) return false;
  const std::unique_ptr<char, void (*)(void*)> owner(
      virDomainGetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, kOwnerNamespace, 0), free);
  return owner != nullptr && IsOwner(owner.get(), options_.owner);
}

absl::Status Hypervisor::RemoveLeftovers(_virConnect* connection) {
  virDomainPtr* domains = nullptr;
  const int count = virConnectListAllDomains(connection, &domains, 0);
  if (count < 0) return LastError("listing the domains");
  std::set<std::string> others;
  int removed = 0;
  absl::Status status;
  for (int i = 0; i < count; ++i) {
    Domain domain(domains[i]);
    if (!IsOurs(domains[i])) {
      // One that has gone meanwhile tells no owner any more, and needs no log.
      const char* const name = virDomainGetName(domains[i]);
      if (name != nullptr && virDomainIsActive(domains[i]) >= 0) others.insert(name);
      continue;
    }
    ++removed;
    const bool persistent = virDomainIsPersistent(domains[i]) == 1;
    const absl::Status destroyed = domain.Destroy();
    if (status.ok()) status = destroyed;
    if (persistent) virDomainUndefine(domains[i]);
  }
  free(domains);
  if (removed > 0) options_.log(absl::StrCat("removed ", removed, " domains that were left"));
  if (status.ok()) RemoveLogs(options_.uri, others);
  return status;
}

absl::StatusOr<Domain> Hypervisor::Create(const DomainSpec& spec,
                                          const std::vector<UniqueFd>& disks) {
  // The embedded driver knows no AUTODESTROY: there the next start removes what was left.
  const unsigned flags =
      VIR_DOMAIN_START_PAUSED | (embedded_ ? 0u : unsigned{VIR_DOMAIN_START_AUTODESTROY});
  return Make(
      spec, disks, [flags](virConnectPtr connection, virDomainPtr domain, const std::string&) {
        return virDomainCreateWithFlags(domain, flags) == 0 ? absl::OkStatus()
                                                            : FailedOn(connection, "starting QEMU");
      });
}

absl::StatusOr<Domain> Hypervisor::Restore(const DomainSpec& spec,
                                           const std::vector<UniqueFd>& disks,
                                           const std::string& image) {
  return Make(spec, disks,
              [&image](virConnectPtr connection, virDomainPtr, const std::string& xml) {
                return virDomainRestoreFlags(connection, image.c_str(), xml.c_str(),
                                             VIR_DOMAIN_SAVE_PAUSED) == 0
                           ? absl::OkStatus()
                           : FailedOn(connection, "restoring a domain");
              });
}

absl::StatusOr<Domain> Hypervisor::Make(const DomainSpec& spec, const std::vector<UniqueFd>& disks,
                                        const Starter& start) {
  ASSIGN_OR_RETURN(const std::string xml, DomainXml(spec));
  ASSIGN_OR_RETURN(const std::shared_ptr<_virConnect> connection, Connection());
  // Descriptors can be associated with what is defined only.
  virDomainPtr defined = virDomainDefineXMLFlags(connection.get(), xml.c_str(), 0);
  if (defined == nullptr) return FailedOn(connection.get(), "defining a domain");
  Domain domain(defined);
  absl::Status status;
  for (size_t i = 0; i < disks.size() && status.ok(); ++i) {
    int fd = disks[i].get();
    if (virDomainFDAssociate(defined, TargetOf(i).c_str(), 1, &fd, 0) != 0) {
      status = FailedOn(connection.get(), "giving libvirt a disk");
    }
  }
  if (status.ok()) status = start(connection.get(), defined, xml);
  const bool running = status.ok();
  // From now on it goes when it ends.
  if (virDomainUndefine(defined) != 0 && status.ok()) {
    status = FailedOn(connection.get(), "undefining a domain");
  }
  if (status.ok()) return domain;
  if (running) domain.Destroy().IgnoreError();
  return status;
}

}  // namespace hearth::libvirt
