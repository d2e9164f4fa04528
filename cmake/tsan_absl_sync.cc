// SPDX-License-Identifier: Apache-2.0
// Shows ThreadSanitizer what absl's mutexes do. Debian's libabsl is not instrumented, so without
// this every access under an absl::Mutex looks like a race. Programs of the tsan preset are linked
// with --wrap for each function here (cmake/Tsan.cmake); the real one is called between the
// annotations. Waiting for a condition becomes polling, because absl evaluates a waiter's condition
// on whatever thread unlocks, behind the sanitizer's back.
#include <sanitizer/tsan_interface.h>

#include <ctime>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Notification;
using absl::Time;

#define WRAP(result, mangled, ...)                        \
  result __wrap_##mangled(__VA_ARGS__);                   \
  result __real_##mangled(__VA_ARGS__) __asm__(#mangled); \
  result __wrap_##mangled(__VA_ARGS__)

extern "C" {

WRAP(void, _ZN4absl7debian35Mutex4LockEv, Mutex* mutex) {
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_acquire(mutex);
}
WRAP(bool, _ZN4absl7debian35Mutex7TryLockEv, Mutex* mutex) {
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}
WRAP(void, _ZN4absl7debian35Mutex6UnlockEv, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
}
WRAP(void, _ZN4absl7debian35Mutex10ReaderLockEv, Mutex* mutex) {
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mutex);
  __tsan_acquire(mutex);
}
WRAP(void, _ZN4absl7debian35Mutex12ReaderUnlockEv, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mutex);
}

}  // extern "C"

namespace {

void LockShown(Mutex* mutex) { __wrap__ZN4absl7debian35Mutex4LockEv(mutex); }
void UnlockShown(Mutex* mutex) { __wrap__ZN4absl7debian35Mutex6UnlockEv(mutex); }

// With the mutex held, before and after: true once the condition holds, false at the deadline.
bool Poll(Mutex* mutex, const Condition& condition, Time deadline) {
  while (!condition.Eval()) {
    if (absl::Now() >= deadline) return false;
    UnlockShown(mutex);
    const timespec pause{0, 50'000};
    nanosleep(&pause, nullptr);
    LockShown(mutex);
  }
  return true;
}

}  // namespace

extern "C" {

WRAP(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, Mutex* mutex,
     const Condition& condition) {
  Poll(mutex, condition, absl::InfiniteFuture());
}
WRAP(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE, Mutex* mutex,
     const Condition& condition, Duration timeout) {
  return Poll(mutex, condition, absl::Now() + timeout);
}
WRAP(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE, Mutex* mutex,
     const Condition& condition, Time deadline) {
  return Poll(mutex, condition, deadline);
}
WRAP(void, _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, Mutex* mutex,
     const Condition& condition) {
  LockShown(mutex);
  Poll(mutex, condition, absl::InfiniteFuture());
}
WRAP(bool, _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE,
     Mutex* mutex, const Condition& condition, Duration timeout) {
  LockShown(mutex);
  return Poll(mutex, condition, absl::Now() + timeout);
}

WRAP(void, _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE, CondVar* variable, Mutex* mutex) {
  __tsan_release(mutex);
  __real__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(variable, mutex);
  __tsan_acquire(mutex);
}
WRAP(bool, _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE, CondVar* variable,
     Mutex* mutex, Duration timeout) {
  __tsan_release(mutex);
  const bool timed_out =
      __real__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(variable, mutex,
                                                                                  timeout);
  __tsan_acquire(mutex);
  return timed_out;
}
WRAP(bool, _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE, CondVar* variable,
     Mutex* mutex, Time deadline) {
  __tsan_release(mutex);
  const bool timed_out = __real__ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE(
      variable, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

WRAP(void, _ZN4absl7debian312Notification6NotifyEv, Notification* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian312Notification6NotifyEv(notification);
}
WRAP(void, _ZNK4absl7debian312Notification19WaitForNotificationEv,
     const Notification* notification) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(notification);
  __tsan_acquire(const_cast<Notification*>(notification));
}
WRAP(bool, _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
     const Notification* notification, Duration timeout) {
  const bool notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          notification, timeout);
  __tsan_acquire(const_cast<Notification*>(notification));
  return notified;
}

}  // extern "C"
