// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/log_relay.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "control-plane/node/names.h"
#include "vmm/base/steady_clock.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

// The agent's clock is the guest's; a time further from ours than this is not believed.
constexpr absl::Duration kMaxClockError = absl::Minutes(1);

hearth::v1::LogEntry::Source SourceOf(agent::v1::LogLine::Source source) {
  switch (source) {
    case agent::v1::LogLine::SOURCE_STDOUT:
      return hearth::v1::LogEntry::STDOUT;
    case agent::v1::LogLine::SOURCE_STDERR:
      return hearth::v1::LogEntry::STDERR;
    default:
      return hearth::v1::LogEntry::PLATFORM;
  }
}

}  // namespace

void LogSink::Set(NodeObserver* observer) {
  absl::MutexLock lock(&mutex_);
  observer_ = observer;
}

void LogSink::Tell(const std::string& version, hearth::v1::LogEntry entry) {
  // A reader's lock: instances do not wait for each other, only Set() waits for them.
  absl::ReaderMutexLock lock(&mutex_);
  if (observer_ != nullptr) observer_->OnLog(version, std::move(entry));
}

LogRelay::LogRelay(LogSink* sink, std::string version, std::string instance)
    : sink_(sink),
      version_(std::move(version)),
      instance_(std::move(instance)),
      function_(FunctionNameOf(version_)) {}

void LogRelay::BeginInvocation(const std::string& invocation_id) {
  absl::MutexLock lock(&mutex_);
  invocations_[1] = std::exchange(invocations_[0], invocation_id);
}

bool LogRelay::Admit(int64_t bytes) {
  const absl::Time now = SteadyNow();
  if (now > refilled_) {
    const absl::Duration passed = std::min(now - refilled_, absl::Minutes(1));
    const int64_t earned = absl::ToInt64Milliseconds(passed) * (kLogBytesPerSecond / 1000);
    if (earned > 0) {
      tokens_ = std::min(kLogBurstBytes, tokens_ + earned);
      refilled_ = now;
    }
  }
  if (tokens_ < bytes) return false;
  tokens_ -= bytes;
  return true;
}

hearth::v1::LogEntry LogRelay::Convert(const agent::v1::LogLine& line, absl::Time now) {
  hearth::v1::LogEntry entry;
  absl::Time time = absl::FromUnixNanos(line.unix_ns());
  if (time < now - kMaxClockError || time > now + kMaxClockError) time = now;
  *entry.mutable_time() = ToProto(time);
  entry.set_source(SourceOf(line.source()));
  const bool known =
      !line.request_id().empty() &&
      std::find(invocations_.begin(), invocations_.end(), line.request_id()) != invocations_.end();
  if (known) entry.set_invocation(absl::StrCat(function_, "/invocations/", line.request_id()));
  entry.set_version(version_);
  entry.set_instance(instance_);
  entry.set_text(wire::SanitizeText(line.text(), kMaxTextBytes));
  entry.set_truncated(line.truncated());
  entry.set_dropped(std::exchange(dropped_, 0));
  return entry;
}

void LogRelay::Tell(const agent::v1::LogLines& lines, absl::Time now) {
  std::vector<hearth::v1::LogEntry> entries;
  {
    absl::MutexLock lock(&mutex_);
    dropped_ += static_cast<int64_t>(std::min<uint64_t>(lines.dropped_lines(), 1u << 30));
    for (const agent::v1::LogLine& line : lines.lines()) {
      if (Admit(static_cast<int64_t>(line.text().size()) + kLineOverheadBytes)) {
        entries.push_back(Convert(line, now));
      } else {
        ++dropped_;
      }
    }
  }
  for (hearth::v1::LogEntry& entry : entries) sink_->Tell(version_, std::move(entry));
}

}  // namespace hearth::control
