// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "hearth/agent/v1/agent.pb.h"

namespace hearth::agent {

// Log lines that wait for the connection: at most kMaxBufferedLogBytes, what comes above is dropped
// and counted. An event carries at most kMaxLogEventBytes.
inline constexpr size_t kMaxBufferedLogBytes = 256 * 1024;
inline constexpr size_t kMaxLogEventBytes = 64 * 1024;

class LogBuffer {
 public:
  using Source = agent::v1::LogLine::Source;

  // `text` is cut at wire::kMaxLogLineBytes.
  void Append(Source source, absl::string_view request_id, absl::string_view text, bool truncated);

  bool empty() const { return lines_.empty() && dropped_ == 0; }

  // Takes lines from the front, as many as an event holds.
  agent::v1::Event TakeEvent();

 private:
  std::deque<agent::v1::LogLine> lines_;
  size_t bytes_ = 0;
  uint64_t dropped_ = 0;
};

// Cuts what a program prints into lines. A line over wire::kMaxLogLineBytes is delivered once, cut
// there and marked; the rest of it is skipped.
class LineSplitter {
 public:
  using OnLine = std::function<void(absl::string_view text, bool truncated)>;

  void Feed(absl::string_view bytes, const OnLine& on_line);
  // The last line may lack its newline.
  void Finish(const OnLine& on_line);

 private:
  std::string partial_;
  bool skipping_ = false;
};

}  // namespace hearth::agent
