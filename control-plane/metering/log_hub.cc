// SPDX-License-Identifier: Apache-2.0
#include "control-plane/metering/log_hub.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "control-plane/limits.h"
#include "control-plane/store/uuid.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

constexpr absl::Duration kGoneTime = absl::Minutes(30);  // Twice the longest invocation.

size_t CostOf(const hearth::v1::LogEntry& entry) {
  return entry.text().size() + entry.invocation().size() + entry.version().size() +
         entry.instance().size() + limits::kLogEntryOverheadBytes;
}

constexpr char kVersions[] = "/versions/";

int64_t NumberOf(absl::string_view version_name) {
  int64_t number = 0;
  const size_t at = version_name.rfind(kVersions);
  return at != absl::string_view::npos &&
                 absl::SimpleAtoi(version_name.substr(at + sizeof(kVersions) - 1), &number)
             ? number
             : 0;
}

}  // namespace

void LogHub::OnLog(const std::string& version_name, hearth::v1::LogEntry entry) {
  if (entry.text().size() > limits::kMaxLogLineBytes) {
    entry.mutable_text()->resize(limits::kMaxLogLineBytes);
    entry.set_truncated(true);
  }
  Append(version_name, std::move(entry));
}

void LogHub::AddPlatformLine(const hearth::v1::Invocation& invocation, std::string text) {
  hearth::v1::LogEntry entry;
  const absl::Time now = absl::Now();
  entry.mutable_time()->set_seconds(absl::ToUnixSeconds(now));
  entry.mutable_time()->set_nanos(static_cast<int32_t>(absl::ToUnixNanos(now) % 1'000'000'000));
  entry.set_source(hearth::v1::LogEntry::PLATFORM);
  entry.set_invocation(invocation.name());
  entry.set_version(invocation.version());
  entry.set_instance(invocation.instance());
  entry.set_text(std::move(text));
  OnLog(invocation.version(), std::move(entry));
}

void LogHub::Append(const std::string& version_name, hearth::v1::LogEntry entry) {
  const std::string function = version_name.substr(0, version_name.rfind(kVersions));
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  const auto gone = gone_.find(function);
  if (gone != gone_.end() && NumberOf(version_name) <= gone->second.last_version) return;
  std::shared_ptr<Ring>& ring = rings_[function];
  if (!ring) ring = std::make_shared<Ring>();
  const uint64_t number = ring->first + ring->entries.size();
  entry.set_cursor(absl::StrCat(epoch_, ".", number));
  ring->bytes += CostOf(entry);
  bytes_ += CostOf(entry);
  ring->last_write = ++writes_;
  ring->entries.push_back(std::move(entry));
  while (ring->bytes > limits::kMaxFunctionLogBytes) DropFirst(*ring);
  if (bytes_ > limits::kMaxLogBytes) MakeRoom(*ring);
}

void LogHub::DropFirst(Ring& ring) {
  const size_t cost = CostOf(ring.entries.front());
  ring.bytes -= cost;
  bytes_ -= cost;
  ring.entries.pop_front();
  ++ring.first;
}

void LogHub::MakeRoom(const Ring& writer) {
  while (bytes_ > limits::kMaxLogBytes) {
    Ring* oldest = nullptr;
    for (auto& [name, ring] : rings_) {
      if (ring.get() == &writer || ring->entries.empty()) continue;
      if (oldest == nullptr || ring->last_write < oldest->last_write) oldest = ring.get();
    }
    if (oldest == nullptr) return;
    while (!oldest->entries.empty()) DropFirst(*oldest);
  }
}

absl::StatusOr<std::unique_ptr<LogHub::Reader>> LogHub::Read(const std::string& function,
                                                             Options options) {
  uint64_t after = 0;
  bool ours = false;
  if (!options.after_cursor.empty()) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(options.after_cursor, absl::MaxSplits('.', 1));
    if (!IsUuid(parts.first) || !absl::SimpleAtoi(parts.second, &after)) {
      return absl::InvalidArgumentError("after_cursor is not a log entry's cursor");
    }
    ours = parts.first == epoch_;
  }
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<Ring>& ring = rings_[function];
  if (!ring) ring = std::make_shared<Ring>();
  if (closed_) ring->closed = true;
  std::unique_ptr<Reader> reader(new Reader(this, ring, std::move(options)));
  const uint64_t end = ring->first + ring->entries.size();
  reader->next_ = ours ? std::min(after + 1, end) : ring->first;
  if (reader->options_.tail > 0) {
    // Counts only the lines that the reader will see.
    size_t wanted = reader->options_.tail;
    uint64_t start = end;
    while (start > std::max(reader->next_, ring->first) && wanted > 0) {
      --start;
      const auto& entry = ring->entries[start - ring->first];
      if (reader->options_.invocation.empty() ||
          entry.invocation() == reader->options_.invocation) {
        --wanted;
      }
    }
    reader->next_ = std::max(reader->next_, start);
  }
  return reader;
}

std::vector<hearth::v1::LogEntry> LogHub::Reader::Next(const Cancellation& cancellation) {
  std::vector<hearth::v1::LogEntry> found;
  bool cancelled = false;
  // The callback may run while this thread holds nothing, so the lock order is cancellation, hub.
  const auto registration = cancellation.OnCancel([&] {
    absl::MutexLock lock(&hub_->mutex_);
    cancelled = true;
  });
  absl::MutexLock lock(&hub_->mutex_);
  const auto end = [&] { return ring_->first + ring_->entries.size(); };
  const auto ready = [&] { return cancelled || ring_->closed || next_ < end(); };
  while (found.empty()) {
    if (options_.follow) hub_->mutex_.Await(absl::Condition(&ready));
    if (cancelled || next_ >= end()) break;
    if (next_ < ring_->first) {
      dropped_ += static_cast<int64_t>(ring_->first - next_);
      next_ = ring_->first;
    }
    for (; next_ < end() && found.size() < limits::kMaxLogEntriesPerMessage; ++next_) {
      const auto& entry = ring_->entries[next_ - ring_->first];
      if (!options_.invocation.empty() && entry.invocation() != options_.invocation) continue;
      found.push_back(entry);
      found.back().set_dropped(entry.dropped() + std::exchange(dropped_, 0));
    }
  }
  return found;
}

void LogHub::Forget(const std::string& function, const std::string& last_version) {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  for (auto it = gone_.begin(); it != gone_.end();) {
    it = it->second.expiry < now ? gone_.erase(it) : std::next(it);
  }
  if (!last_version.empty()) gone_[function] = {NumberOf(last_version), now + kGoneTime};
  const auto found = rings_.find(function);
  if (found == rings_.end()) return;
  while (!found->second->entries.empty()) DropFirst(*found->second);
  found->second->closed = true;
  rings_.erase(found);
}

void LogHub::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (auto& [name, ring] : rings_) ring->closed = true;
}

}  // namespace hearth::control
