# SPDX-License-Identifier: Apache-2.0
# Included by the tsan preset: links every program with tsan_absl_sync.cc.
add_library(hearth_tsan_absl_sync SHARED ${PROJECT_SOURCE_DIR}/cmake/tsan_absl_sync.cc)
target_link_libraries(hearth_tsan_absl_sync PRIVATE absl::synchronization absl::time)
foreach(function
    _ZN4absl7debian35Mutex4LockEv
    _ZN4absl7debian35Mutex7TryLockEv
    _ZN4absl7debian35Mutex6UnlockEv
    _ZN4absl7debian35Mutex10ReaderLockEv
    _ZN4absl7debian35Mutex12ReaderUnlockEv
    _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
    _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
    _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
    _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE
    _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE
    _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE
    _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
    _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE
    _ZN4absl7debian312Notification6NotifyEv
    _ZNK4absl7debian312Notification19WaitForNotificationEv
    _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE)
  add_link_options(-Wl,--wrap=${function})
endforeach()
link_libraries(hearth_tsan_absl_sync)
