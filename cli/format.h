// SPDX-License-Identifier: Apache-2.0
// Figures and tables for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace hearth::cli {

// "0.4 ms", "312 ms", "1.1 s", "2 min 5 s".
std::string FormatDuration(double seconds);
// "0.1 s": always in seconds, for lists of stages.
std::string FormatSeconds(double seconds);
// "512 B", "3.2 kB", "7.1 MB" (powers of 1000).
std::string FormatBytes(int64_t bytes);
// Local time, "2026-11-23 13:15:10"; empty for the zero time.
std::string FormatTime(const google::protobuf::Timestamp& time);
double ToSeconds(const google::protobuf::Duration& duration);
google::protobuf::Duration FromSeconds(double seconds);

// Control characters, escape sequences above all, must not reach a terminal from a function or a
// server: they become "?"; line breaks and tabs stay.
std::string SafeText(std::string_view text);

// Rows of cells under a heading, columns as wide as they need; cells that are all figures are set
// to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> heading) : heading_(std::move(heading)) {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  std::string Render() const;

 private:
  std::vector<std::string> heading_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace hearth::cli
