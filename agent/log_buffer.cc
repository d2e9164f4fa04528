// SPDX-License-Identifier: Apache-2.0
#include "agent/log_buffer.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "wire/limits.h"

namespace hearth::agent {
namespace {

// What a line costs besides its text, here and on the wire.
constexpr size_t kLineOverheadBytes = 128;

int64_t UnixNowNs() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

void LogBuffer::Append(Source source, absl::string_view request_id, absl::string_view text,
                       bool truncated) {
  if (text.size() > wire::kMaxLogLineBytes) {
    text = text.substr(0, wire::kMaxLogLineBytes);
    truncated = true;
  }
  if (bytes_ + text.size() + kLineOverheadBytes > kMaxBufferedLogBytes) {
    ++dropped_;
    return;
  }
  agent::v1::LogLine line;
  line.set_unix_ns(UnixNowNs());
  line.set_source(source);
  line.set_request_id(std::string(request_id));
  line.set_text(std::string(text));
  line.set_truncated(truncated);
  bytes_ += text.size() + kLineOverheadBytes;
  lines_.push_back(std::move(line));
}

agent::v1::Event LogBuffer::TakeEvent() {
  agent::v1::Event event;
  event.mutable_log_lines()->set_dropped_lines(std::exchange(dropped_, 0));
  size_t event_bytes = 0;
  while (!lines_.empty()) {
    const size_t cost = lines_.front().text().size() + kLineOverheadBytes;
    if (event_bytes > 0 && event_bytes + cost > kMaxLogEventBytes) break;
    event_bytes += cost;
    bytes_ -= cost;
    *event.mutable_log_lines()->add_lines() = std::move(lines_.front());
    lines_.pop_front();
  }
  return event;
}

void LineSplitter::Feed(absl::string_view bytes, const OnLine& on_line) {
  while (!bytes.empty()) {
    const size_t newline = bytes.find('\n');
    const bool ends = newline != absl::string_view::npos;
    const absl::string_view piece = bytes.substr(0, newline);
    bytes.remove_prefix(ends ? newline + 1 : bytes.size());
    if (!skipping_) {
      const size_t room = wire::kMaxLogLineBytes - partial_.size();
      partial_.append(piece.data(), std::min(piece.size(), room));
      if (piece.size() > room) {
        on_line(partial_, true);
        partial_.clear();
        skipping_ = true;
      }
    }
    if (!ends) continue;
    if (!skipping_) on_line(partial_, false);
    partial_.clear();
    skipping_ = false;
  }
}

void LineSplitter::Finish(const OnLine& on_line) {
  if (!partial_.empty()) on_line(partial_, false);
  partial_.clear();
  skipping_ = false;
}

}  // namespace hearth::agent
