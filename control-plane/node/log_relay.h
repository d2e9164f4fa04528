// SPDX-License-Identifier: Apache-2.0
// Log lines on their way from an agent to the node's observer: bounded, named and made clean.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "control-plane/node/node.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::control {

// Where all instances' lines go. Thread-safe.
class LogSink {
 public:
  // Waits for calls under way when it changes.
  void Set(NodeObserver* observer) ABSL_LOCKS_EXCLUDED(mutex_);
  void Tell(const std::string& version, hearth::v1::LogEntry entry) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Mutex mutex_;
  NodeObserver* observer_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// One instance's lines. An agent that floods is cut to kLogBytesPerSecond; what is lost is counted.
// Thread-safe.
class LogRelay {
 public:
  static constexpr int64_t kLogBytesPerSecond = 1024 * 1024;
  static constexpr int64_t kLogBurstBytes = 4 * 1024 * 1024;
  static constexpr size_t kMaxTextBytes = 16 * 1024;
  static constexpr int64_t kLineOverheadBytes = 256;

  LogRelay(LogSink* sink, std::string version, std::string instance);

  // Lines that name `invocation_id` belong to the invocation `name` from now on; those that name
  // neither it nor the one before belong to none.
  void BeginInvocation(const std::string& invocation_id) ABSL_LOCKS_EXCLUDED(mutex_);

  // What came from the agent, at the time `now`.
  void Tell(const agent::v1::LogLines& lines, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Whether a line of that size may pass now.
  bool Admit(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  hearth::v1::LogEntry Convert(const agent::v1::LogLine& line, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  LogSink* const sink_;
  const std::string version_;
  const std::string instance_;
  const std::string function_;

  absl::Mutex mutex_;
  std::array<std::string, 2> invocations_ ABSL_GUARDED_BY(mutex_);  // The current, the last.
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = kLogBurstBytes;
  absl::Time refilled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace hearth::control
