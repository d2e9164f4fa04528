// SPDX-License-Identifier: Apache-2.0
#include "agent/log_buffer.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "wire/limits.h"

namespace hearth::agent {
namespace {

using agent::v1::LogLine;

struct Line {
  std::string text;
  bool truncated = false;
  bool operator==(const Line&) const = default;
};

std::vector<Line> Split(const std::vector<std::string>& pieces) {
  std::vector<Line> lines;
  LineSplitter splitter;
  const auto add = [&](absl::string_view text, bool truncated) {
    lines.push_back({std::string(text), truncated});
  };
  for (const std::string& piece : pieces) splitter.Feed(piece, add);
  splitter.Finish(add);
  return lines;
}

TEST_CASE("log: lines are cut at newlines, wherever the reads fell, and the last may lack one") {
  const std::vector<Line> expected = {{"one"}, {""}, {"two"}, {"three"}};
  REQUIRE(Split({"one\n\ntwo\nthree"}) == expected);
  REQUIRE(Split({"on", "e", "\n", "\ntwo\nth", "ree"}) == expected);
  REQUIRE(Split({"one\n\ntwo\nthree\n"}) == expected);
  REQUIRE(Split({}).empty());
}

TEST_CASE("log: a line over the limit is delivered once, cut and marked, the next one is whole") {
  const std::string limit(wire::kMaxLogLineBytes, 'x');
  REQUIRE(Split({limit + "\nnext"}) == std::vector<Line>{{limit}, {"next"}});
  REQUIRE(Split({limit, "y", limit, "z\nnext"}) == std::vector<Line>{{limit, true}, {"next"}});
  REQUIRE(Split({limit + "y"}) == std::vector<Line>{{limit, true}});
}

TEST_CASE("log: the buffer is bounded, events too, and what is lost is counted once") {
  LogBuffer buffer;
  const std::string text(1000, 'x');
  int appended = 0;
  for (; appended < 1000; ++appended) buffer.Append(LogLine::SOURCE_STDOUT, "id", text, false);
  int received = 0;
  uint64_t dropped = 0;
  while (!buffer.empty()) {
    const agent::v1::Event event = buffer.TakeEvent();
    REQUIRE(event.ByteSizeLong() <= kMaxLogEventBytes + 1024);
    received += event.log_lines().lines_size();
    dropped += event.log_lines().dropped_lines();
  }
  REQUIRE(received * text.size() <= kMaxBufferedLogBytes);
  REQUIRE(received > 100);
  REQUIRE(received + dropped == 1000);
  buffer.Append(LogLine::SOURCE_STDERR, "other", "again", true);
  const agent::v1::Event event = buffer.TakeEvent();
  REQUIRE(event.log_lines().dropped_lines() == 0);
  REQUIRE(event.log_lines().lines(0).text() == "again");
  REQUIRE(event.log_lines().lines(0).request_id() == "other");
  REQUIRE(event.log_lines().lines(0).truncated());
  REQUIRE(event.log_lines().lines(0).unix_ns() > 0);
}

}  // namespace
}  // namespace hearth::agent
