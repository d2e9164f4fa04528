// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/event_thread.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

namespace hearth::libvirt {

absl::StatusOr<std::unique_ptr<EventThread>> EventThread::Start() {
  // Errors come back as statuses; libvirt need not print them, too.
  virSetErrorFunc(nullptr, [](void*, virErrorPtr) {});
  if (virInitialize() != 0 || virEventRegisterDefaultImpl() != 0) {
    return absl::InternalError("libvirt cannot be initialised");
  }
  const int wake = virEventAddTimeout(
      -1, [](int timer, void*) { virEventUpdateTimeout(timer, -1); }, nullptr, nullptr);
  if (wake < 0) return absl::InternalError("libvirt's event loop takes no timeout");
  std::unique_ptr<EventThread> events(new EventThread(wake));
  events->thread_ = std::thread([self = events.get()] {
    while (!self->stopping_.load() && virEventRunDefaultImpl() == 0) {
    }
  });
  return events;
}

EventThread::~EventThread() {
  stopping_.store(true);
  virEventUpdateTimeout(wake_, 0);
  if (thread_.joinable()) thread_.join();
}

}  // namespace hearth::libvirt
