// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/hypervisor.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/event_thread.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

// A daemon that says nothing for that long is taken for gone.
constexpr int kKeepAliveSeconds = 5;
constexpr unsigned kKeepAliveCount = 3;

// The last libvirt call of this thread has failed.
absl::Status LastError(absl::string_view what) {
  const virErrorPtr error = virGetLastError();
  const std::string text = absl::StrCat(
      what, ": ",
      error != nullptr && error->message != nullptr ? error->message : "libvirt does not say why");
  switch (error != nullptr ? error->code : VIR_ERR_OK) {
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
    case VIR_ERR_SYSTEM_ERROR:
      return absl::UnavailableError(text);
    case VIR_ERR_NO_DOMAIN:
      return absl::NotFoundError(text);
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_CONFIG_UNSUPPORTED:
    case VIR_ERR_OPERATION_INVALID:
      return absl::FailedPreconditionError(text);
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_ACCESS_DENIED:
      return absl::PermissionDeniedError(text);
    case VIR_ERR_NO_MEMORY:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::InternalError(text);
  }
}

DomainEnd EndOf(int event, int detail) {
  if (event == VIR_DOMAIN_EVENT_CRASHED) return DomainEnd::kCrashed;
  switch (detail) {
    case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
      return DomainEnd::kGuestReset;
    case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
      return DomainEnd::kDestroyed;
    case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
      return DomainEnd::kCrashed;
    default:
      return DomainEnd::kFailed;
  }
}

int OnLifecycle(virConnectPtr, virDomainPtr domain, int event, int detail, void* opaque) {
  if (event != VIR_DOMAIN_EVENT_STOPPED && event != VIR_DOMAIN_EVENT_CRASHED) return 0;
  const char* const name = virDomainGetName(domain);
  const auto* const options = static_cast<const HypervisorOptions*>(opaque);
  if (name != nullptr && absl::StartsWith(name, kDomainPrefix)) {
    options->on_ended(name, EndOf(event, detail));
  }
  return 0;
}

void OnClosed(virConnectPtr, int, void* opaque) {
  static_cast<const HypervisorOptions*>(opaque)->on_lost();
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

absl::Status Domain::Destroy() {
  if (virDomainDestroy(domain_) == 0) return absl::OkStatus();
  const absl::Status failed = LastError("destroying a domain");
  // It is not there any more, or not running.
  if (absl::IsNotFound(failed) || absl::IsFailedPrecondition(failed)) return absl::OkStatus();
  return failed;
}

Hypervisor::Hypervisor(HypervisorOptions options, bool embedded)
    : options_(std::move(options)), embedded_(embedded) {}

absl::StatusOr<std::unique_ptr<Hypervisor>> Hypervisor::Open(HypervisorOptions options, bool kvm) {
  const bool embedded = absl::StartsWith(options.uri, "qemu:///embed");
  std::unique_ptr<Hypervisor> hypervisor(new Hypervisor(std::move(options), embedded));
  ASSIGN_OR_RETURN(hypervisor->events_, EventThread::Start());
  RETURN_IF_ERROR(hypervisor->Probe(kvm));
  return hypervisor;
}

Hypervisor::~Hypervisor() {
  absl::MutexLock lock(&mutex_);
  Disconnect();
}

void Hypervisor::Disconnect() {
  if (connection_ == nullptr) return;
  virConnectUnregisterCloseCallback(connection_, OnClosed);
  if (lifecycle_ >= 0) virConnectDomainEventDeregisterAny(connection_, lifecycle_);
  lifecycle_ = -1;
  virConnectClose(connection_);
  connection_ = nullptr;
}

absl::Status Hypervisor::Connect() {
  connection_ = virConnectOpen(options_.uri.c_str());
  if (connection_ == nullptr) {
    return Annotate(
        LastError(absl::StrCat("libvirt cannot open ", options_.uri)),
        embedded_ ? "the embedded driver needs the package libvirt-daemon-driver-qemu with its "
                    "user and group libvirt-qemu, the package qemu-system-x86, and root"
                  : "a libvirt daemon must run and let this user in (for qemu:///system: "
                    "libvirtd or virtqemud, started, and the group libvirt); "
                    "qemu:///embed?root=FOLDER needs none");
  }
  void* const opaque = const_cast<HypervisorOptions*>(&options_);
  lifecycle_ =
      virConnectDomainEventRegisterAny(connection_, nullptr, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                       // The kind of event says what the callback really is.
                                       reinterpret_cast<virConnectDomainEventGenericCallback>(
                                           reinterpret_cast<void (*)()>(OnLifecycle)),
                                       opaque, nullptr);
  if (lifecycle_ < 0) {
    const absl::Status failed = LastError("asking libvirt for its events");
    Disconnect();
    return failed;
  }
  // The embedded driver has neither: it cannot be lost.
  if (!embedded_) {
    virConnectSetKeepAlive(connection_, kKeepAliveSeconds, kKeepAliveCount);
    virConnectRegisterCloseCallback(connection_, OnClosed, opaque, nullptr);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<_virConnect>> Hypervisor::Connection() {
  absl::MutexLock lock(&mutex_);
  if (connection_ != nullptr && virConnectIsAlive(connection_) != 1) Disconnect();
  if (connection_ == nullptr) RETURN_IF_ERROR(Connect());
  virConnectRef(connection_);
  return std::shared_ptr<_virConnect>(
      connection_, [](virConnectPtr connection) { virConnectClose(connection); });
}

absl::Status Hypervisor::Probe(bool kvm) {
  ASSIGN_OR_RETURN(const std::shared_ptr<_virConnect> connection, Connection());
  unsigned long libvirt = 0, qemu = 0;
  if (virConnectGetLibVersion(connection.get(), &libvirt) != 0) return LastError("libvirt");
  char* const abilities = virConnectGetDomainCapabilities(connection.get(), nullptr, "x86_64",
                                                          "microvm", kvm ? "kvm" : "qemu", 0);
  if (abilities == nullptr) {
    return Annotate(LastError(kvm ? "with KVM" : "without KVM"),
                    "QEMU here cannot run machines of type microvm; install qemu-system-x86");
  }
  free(abilities);
  if (virConnectGetVersion(connection.get(), &qemu) != 0) qemu = 0;
  version_ = absl::StrCat("libvirt ", Dotted(libvirt), ", QEMU ", Dotted(qemu));
  return absl::OkStatus();
}

absl::StatusOr<int> Hypervisor::RemoveLeftovers() {
  ASSIGN_OR_RETURN(const std::shared_ptr<_virConnect> connection, Connection());
  virDomainPtr* domains = nullptr;
  const int count = virConnectListAllDomains(connection.get(), &domains, 0);
  if (count < 0) return LastError("listing the domains");
  int removed = 0;
  absl::Status status;
  for (int i = 0; i < count; ++i) {
    const char* const name = virDomainGetName(domains[i]);
    const bool ours = name != nullptr && absl::StartsWith(name, kDomainPrefix);
    Domain domain(domains[i]);
    if (!ours) continue;
    ++removed;
    const bool persistent = virDomainIsPersistent(domains[i]) == 1;
    const absl::Status destroyed = domain.Destroy();
    if (status.ok()) status = destroyed;
    if (persistent) virDomainUndefine(domains[i]);
  }
  free(domains);
  RETURN_IF_ERROR(status);
  return removed;
}

absl::StatusOr<Domain> Hypervisor::Create(const DomainSpec& spec,
                                          const std::vector<UniqueFd>& disks) {
  ASSIGN_OR_RETURN(const std::string xml, DomainXml(spec));
  ASSIGN_OR_RETURN(const std::shared_ptr<_virConnect> connection, Connection());
  // Descriptors can be associated with what is defined only.
  virDomainPtr defined = virDomainDefineXMLFlags(connection.get(), xml.c_str(), 0);
  if (defined == nullptr) return LastError("defining a domain");
  Domain domain(defined);
  absl::Status status;
  for (size_t i = 0; i < disks.size() && status.ok(); ++i) {
    int fd = disks[i].get();
    if (virDomainFDAssociate(defined, TargetOf(i).c_str(), 1, &fd, 0) != 0) {
      status = LastError("giving libvirt a disk");
    }
  }
  // The embedded driver knows no AUTODESTROY: there the next start removes what was left.
  const unsigned flags =
      VIR_DOMAIN_START_PAUSED | (embedded_ ? 0u : unsigned{VIR_DOMAIN_START_AUTODESTROY});
  if (status.ok() && virDomainCreateWithFlags(defined, flags) != 0) {
    status = LastError("starting QEMU");
  }
  const bool running = status.ok();
  // From now on it goes when it ends.
  if (virDomainUndefine(defined) != 0 && status.ok()) status = LastError("undefining a domain");
  if (status.ok()) return domain;
  if (running) domain.Destroy().IgnoreError();
  return status;
}

}  // namespace hearth::libvirt
