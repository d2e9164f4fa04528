// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"

namespace hearth::libvirt {

// Runs libvirt's event loop. Made before the first connection, destroyed after the last.
class EventThread {
 public:
  static absl::StatusOr<std::unique_ptr<EventThread>> Start();
  ~EventThread();
  EventThread(const EventThread&) = delete;
  EventThread& operator=(const EventThread&) = delete;

 private:
  explicit EventThread(int wake) : wake_(wake) {}

  const int wake_;  // A timeout of libvirt's that never expires by itself.
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace hearth::libvirt
