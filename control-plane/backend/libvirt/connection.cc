// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/connection.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {

absl::Status LastError(absl::string_view what) {
  const virErrorPtr error = virGetLastError();
  const std::string text = absl::StrCat(
      what, ": ",
      error != nullptr && error->message != nullptr ? error->message : "libvirt does not say why");
  switch (error != nullptr ? error->code : VIR_ERR_OK) {
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
    case VIR_ERR_SYSTEM_ERROR:
      return absl::UnavailableError(text);
    case VIR_ERR_NO_DOMAIN:
      return absl::NotFoundError(text);
    case VIR_ERR_NO_CONNECT:
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

void Connection::OnClosed(_virConnect*, int, void* self) {
  static_cast<Connection*>(self)->TellLost();
}

int Connection::OnLifecycle(_virConnect*, _virDomain* domain, int event, int detail, void* self) {
  static_cast<Connection*>(self)->options_.on_event(domain, event, detail);
  return 0;
}

void Connection::TellLost() {
  if (!told_lost_.exchange(true)) options_.on_lost();
}

void Connection::Disconnect(_virConnect* connection) {
  if (!options_.embedded) virConnectUnregisterCloseCallback(connection, OnClosed);
  const int lifecycle = lifecycle_.exchange(-1);
  if (lifecycle >= 0) virConnectDomainEventDeregisterAny(connection, lifecycle);
  virConnectClose(connection);
}

void Connection::Open() {
  _virConnect* const connection = virConnectOpen(options_.uri.c_str());
  absl::Status status;
  if (connection == nullptr) {
    status = LastError(absl::StrCat("libvirt cannot open ", options_.uri));
    status = absl::Status(
        status.code(),
        absl::StrCat(status.message(),
                     options_.embedded
                         ? "; the embedded driver needs the package libvirt-daemon-driver-qemu "
                           "with its user and group libvirt-qemu, the package qemu-system-x86, and "
                           "root"
                         : "; a libvirt daemon must run and let this user in (for qemu:///system: "
                           "libvirtd or virtqemud, started, and the group libvirt); "
                           "qemu:///embed?root=FOLDER needs none"));
  }
  bool closed = false;
  {
    absl::MutexLock lock(&mutex_);
    closed = closed_;
    preparing_ = connection != nullptr && !closed;
  }
  if (closed) {
    if (connection != nullptr) virConnectClose(connection);
    return;
  }
  if (connection != nullptr) status = Prepare(connection);
  absl::MutexLock lock(&mutex_);
  opening_ = preparing_ = false;
  if (status.ok()) connection_ = connection;
  error_ = std::move(status);
  changed_.SignalAll();
}

absl::Status Connection::Prepare(_virConnect* connection) {
  // First, so that nothing after it waits longer. The embedded driver cannot be lost.
  if (!options_.embedded) {
    virConnectSetKeepAlive(connection, kKeepAliveSeconds, kKeepAliveCount);
    told_lost_.store(false);
    virConnectRegisterCloseCallback(connection, OnClosed, this, nullptr);
  }
  lifecycle_.store(
      virConnectDomainEventRegisterAny(connection, nullptr, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                       // The kind of event says what the callback really is.
                                       reinterpret_cast<virConnectDomainEventGenericCallback>(
                                           reinterpret_cast<void (*)()>(OnLifecycle)),
                                       this, nullptr));
  absl::Status status = lifecycle_.load() < 0 ? LastError("asking libvirt for its events")
                                              : options_.prepare(connection);
  if (!status.ok()) Disconnect(connection);
  return status;
}

absl::StatusOr<std::shared_ptr<_virConnect>> Connection::Get() {
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("hearth-libvirt is ending");
  if (connection_ != nullptr && virConnectIsAlive(connection_) != 1) {
    Disconnect(std::exchange(connection_, nullptr));
    TellLost();
  }
  if (connection_ == nullptr && !opening_) {
    opening_ = true;
    opening_since_ = absl::Now();
    std::thread([self = shared_from_this()] { self->Open(); }).detach();
  }
  const absl::Time deadline =
      options_.embedded ? absl::InfiniteFuture() : opening_since_ + options_.patience;
  while (opening_ && !closed_) {
    if (changed_.WaitWithDeadline(&mutex_, deadline) && opening_) {
      return absl::UnavailableError(absl::StrCat(
          options_.uri, " does not answer within ", absl::FormatDuration(options_.patience),
          ": see what its libvirt daemon does, or start it anew"));
    }
  }
  if (connection_ == nullptr) return error_;
  virConnectRef(connection_);
  return std::shared_ptr<_virConnect>(
      connection_, [](virConnectPtr connection) { virConnectClose(connection); });
}

void Connection::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  told_lost_.store(true);
  changed_.SignalAll();
  while (preparing_) changed_.Wait(&mutex_);
  if (connection_ != nullptr) Disconnect(std::exchange(connection_, nullptr));
}

}  // namespace hearth::libvirt
