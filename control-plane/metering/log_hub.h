// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/node/cancellation.h"
#include "control-plane/node/node.h"

namespace hearth::control {

// The last log lines of each function, in memory: at most limits::kMaxFunctionLogBytes of one, and
// limits::kMaxLogBytes of all, of which the function that wrote longest ago loses its lines first.
// Thread-safe. The writer never waits: a follower that is too slow misses lines, and is told how
// many (the ring is its queue).
class LogHub final : public NodeObserver {
 private:
  struct Ring;

 public:
  struct Options {
    bool follow = false;
    std::string invocation;    // Only this one's lines, unless empty.
    size_t tail = 0;           // Begin with at most so many old lines; 0 means all.
    std::string after_cursor;  // Begin behind this line, unless empty.
  };

  // One reader. Used on one thread; may outlive the function's lines, not the hub.
  class Reader {
   public:
    // The next lines, at most limits::kMaxLogEntriesPerMessage. Empty: there will be no more, or
    // not for the time being unless it follows. Waits only if it follows.
    std::vector<hearth::v1::LogEntry> Next(const Cancellation& cancellation);

   private:
    friend class LogHub;
    Reader(LogHub* hub, std::shared_ptr<Ring> ring, Options options)
        : hub_(hub), ring_(std::move(ring)), options_(std::move(options)) {}
    LogHub* const hub_;
    const std::shared_ptr<Ring> ring_;
    const Options options_;
    uint64_t next_ = 0;
    int64_t dropped_ = 0;  // Lost since the last line given.
  };

  // `epoch` tells this process's cursors from those of others; a UUID.
  explicit LogHub(std::string epoch) : epoch_(std::move(epoch)) {}

  void OnLog(const std::string& version_name, hearth::v1::LogEntry entry) override;
  // A platform line; sets its time.
  void AddPlatformLine(const hearth::v1::Invocation& invocation, std::string text);

  // INVALID_ARGUMENT when the cursor has not the form of one. A cursor of an earlier hearthd means
  // the oldest line.
  absl::StatusOr<std::unique_ptr<Reader>> Read(const std::string& function, Options options)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Forgets the lines of a function that was deleted; its followers end. What its invocations under
  // way still say is forgotten too, that is, the lines of versions up to `last_version`: a function
  // that is made again under its name has higher ones. Empty: it had none.
  void Forget(const std::string& function, const std::string& last_version)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends all followers, for good.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Ring {
    std::deque<hearth::v1::LogEntry> entries;  // The first has number `first`.
    uint64_t first = 0;
    size_t bytes = 0;
    uint64_t last_write = 0;  // Of all the hub's writes, which.
    bool closed = false;
  };

  // A function that was deleted. Kept for longer than an invocation can take.
  struct Gone {
    int64_t last_version = 0;
    absl::Time expiry;
  };

  void Append(const std::string& version_name, hearth::v1::LogEntry entry)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void DropFirst(Ring& ring) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeRoom(const Ring& writer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string epoch_;
  absl::Mutex mutex_;  // Guards what the rings hold, too.
  std::map<std::string, std::shared_ptr<Ring>> rings_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Gone> gone_ ABSL_GUARDED_BY(mutex_);  // By function.
  uint64_t writes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace hearth::control
