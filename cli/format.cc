// SPDX-License-Identifier: Apache-2.0
#include "cli/format.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace hearth::cli {
namespace {

template <typename... Args>
std::string Print(const char* format, Args... args) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

// Characters, not bytes: a continuation byte of UTF-8 takes no column.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

std::string FormatDuration(double seconds) {
  if (seconds < 0.01) return Print("%.1f ms", seconds * 1000);
  if (seconds < 0.9995) return Print("%.0f ms", seconds * 1000);
  if (seconds < 59.95) return Print("%.1f s", seconds);
  const auto whole = static_cast<long>(std::lround(seconds));
  return Print("%ld min %ld s", whole / 60, whole % 60);
}

std::string FormatSeconds(double seconds) { return Print("%.1f s", seconds); }

std::string FormatBytes(int64_t bytes) {
  if (bytes < 1000) return Print("%d B", static_cast<int>(bytes));
  double value = static_cast<double>(bytes) / 1000;
  const char* unit = "kB";
  for (const char* next : {"MB", "GB", "TB"}) {
    if (value < 999.95) break;
    value /= 1000;
    unit = next;
  }
  return Print("%.1f %s", value, unit);
}

std::string FormatTime(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0 && time.nanos() == 0) return "";
  const time_t seconds = time.seconds();
  tm parts{};
  localtime_r(&seconds, &parts);
  char buffer[64];
  std::strftime(buffer, sizeof buffer, "%Y-%m-%d %H:%M:%S", &parts);
  return buffer;
}

double ToSeconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() / 1e9;
}

google::protobuf::Duration FromSeconds(double seconds) {
  google::protobuf::Duration duration;
  const double whole = std::floor(seconds);
  duration.set_seconds(static_cast<int64_t>(whole));
  // Milliseconds are as fine as anybody writes a time-out.
  duration.set_nanos(static_cast<int32_t>(std::lround((seconds - whole) * 1000)) * 1'000'000);
  if (duration.nanos() >= 1'000'000'000) {
    duration.set_seconds(duration.seconds() + 1);
    duration.set_nanos(0);
  }
  return duration;
}

std::string SafeText(std::string_view text) {
  std::string safe(text);
  for (size_t i = 0; i < safe.size(); ++i) {
    const auto c = static_cast<unsigned char>(safe[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) safe[i] = '?';
    // U+0080 to U+009F, among them a one-character CSI.
    if (c == 0xc2 && i + 1 < safe.size() && static_cast<unsigned char>(safe[i + 1]) < 0xa0) {
      safe[i] = safe[i + 1] = '?';
    }
  }
  return safe;
}

std::string Table::Render() const {
  const size_t columns = heading_.size();
  std::vector<size_t> widths(columns);
  std::vector<bool> figures(columns, true);
  for (size_t column = 0; column < columns; ++column) {
    widths[column] = Width(heading_[column]);
    for (const auto& row : rows_) {
      const std::string& cell = row[column];
      widths[column] = std::max(widths[column], Width(cell));
      if (!cell.empty() && cell != "-" && !std::isdigit(static_cast<unsigned char>(cell[0]))) {
        figures[column] = false;
      }
    }
  }
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t column = 0; column < columns; ++column) {
      const std::string padding(widths[column] - Width(row[column]), ' ');
      if (column > 0) line += "  ";
      line += figures[column] ? padding + row[column] : row[column] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += SafeText(line) + "\n";
  };
  add_row(heading_);
  for (const auto& row : rows_) add_row(row);
  return text;
}

}  // namespace hearth::cli
