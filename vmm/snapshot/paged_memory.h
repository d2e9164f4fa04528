// SPDX-License-Identifier: Apache-2.0
// Guest RAM whose pages come from elsewhere: another process, the pager, gives each one when it is
// first touched (userfaultfd(2)).
//
// Invariant: nobody ever sees a page that the pager has not given. When the last descriptor of a
// userfaultfd is closed, the kernel gives zeros for what is missing; so we keep one, and a pager
// that goes takes the memory with it: every access is forbidden before anybody who waits for a page
// is woken. The guest's KVM_RUN and our system calls then fail with EFAULT (an instruction that KVM
// emulates shows as an access to a device instead, which VcpuThread does not answer any more). Code
// of ours that touches such memory cannot go on: the process says so on standard error and ends
// with status 1.
#pragma once

#include <pthread.h>

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "vmm/base/mutex.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm {

// What it takes to reach a pager.
struct Pager {
  UniqueFd socket;  // A connected stream socket; the pager is gone when it hangs up.
  UniqueFd device;  // An open /dev/userfaultfd.
  // Gives the pager a descriptor of the userfaultfd, and tells it where the memory lies.
  std::function<absl::Status(const UniqueFd& socket, UniqueFd userfaultfd, const GuestMemory&)>
      offer;
};

// The memory's userfaultfd and the thread that watches the pager. Threads: the controlling thread
// calls everything but lost().
class PagedMemory {
 public:
  struct Created;

  // Anonymous memory without a page, offered to the pager and watched from now on by a thread that
  // runs `enter_jail` first (it may be empty). FAILED_PRECONDITION when the device is none, or when
  // the pager is gone already.
  static absl::StatusOr<Created> Create(std::span<const GuestMemory::Range> ranges, Pager pager,
                                        std::function<absl::Status()> enter_jail);
  ~PagedMemory();
  PagedMemory(const PagedMemory&) = delete;
  PagedMemory& operator=(const PagedMemory&) = delete;

  // `callback` comes once, from the watching thread, when the pager has gone; at once, when it has
  // gone already. Not called after Revoke().
  void OnLost(std::function<void()> callback) ABSL_LOCKS_EXCLUDED(mutex_);
  // The pager has gone before Revoke(). Any thread.
  bool lost() const { return lost_.load(); }
  // Set just before the accesses are forbidden, and for good. Any thread.
  const std::atomic<bool>& revoked() const { return revoked_; }

  // Forbids every access to the memory and wakes who waits for a page: a vCPU that a pager leaves
  // waiting could not be stopped otherwise. Idempotent; returns when it is done.
  void Revoke() ABSL_LOCKS_EXCLUDED(mutex_);
  // After Revoke() and when no vCPU will run again: empty memory takes the place of the guest's, so
  // that a device that still looks at its queues harms nobody.
  void Discard();

 private:
  struct Place {
    uint8_t* data;
    size_t size_bytes;
  };

  PagedMemory(UniqueFd userfaultfd, UniqueFd socket, UniqueFd wake)
      : userfaultfd_(std::move(userfaultfd)), socket_(std::move(socket)), wake_(std::move(wake)) {}

  absl::Status Register(const GuestMemory& memory);
  absl::Status StartWatching(std::function<absl::Status()> enter_jail);
  static void* Entry(void* self);
  void Watch() ABSL_LOCKS_EXCLUDED(mutex_);
  void ForbidAccess();

  UniqueFd userfaultfd_;
  UniqueFd socket_;
  UniqueFd wake_;  // An eventfd: Revoke() was called.
  std::vector<Place> places_;
  std::function<absl::Status()> enter_jail_;
  absl::Status jail_status_;  // Before started_.
  std::latch started_{1};
  std::atomic<bool> lost_{false};
  std::atomic<bool> revoked_{false};
  pthread_t thread_{};
  bool watching_ = false;

  Mutex mutex_;
  std::function<void()> on_lost_ ABSL_GUARDED_BY(mutex_);
};

struct PagedMemory::Created {
  // Holds `watch` too, and ends the watching before it is unmapped.
  GuestMemory memory;
  std::shared_ptr<PagedMemory> watch;
};

}  // namespace hearth::vmm
