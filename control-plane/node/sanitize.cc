// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/sanitize.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace hearth::control {
namespace {

constexpr size_t kMaxErrorTypeBytes = 256;
constexpr size_t kMaxErrorMessageBytes = 16 * 1024;
constexpr int kMaxStackFrames = 64;
constexpr size_t kMaxStackFrameBytes = 1024;
constexpr size_t kMaxContentTypeBytes = 256;
constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// The length of the valid UTF-8 sequence at the front of `text` (RFC 3629), 0 when there is none.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  size_t length;
  uint8_t low = 0x80, high = 0xBF;  // Of the second byte.
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;   // No overlong forms,
    if (first == 0xED) high = 0x9F;  // no surrogates,
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;  // nothing above U+10FFFF.
  } else {
    return 0;
  }
  if (text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

int64_t Clamp(uint64_t value) {
  return static_cast<int64_t>(
      std::min<uint64_t>(value, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
}

}  // namespace

std::string SanitizeText(absl::string_view text, size_t max_bytes) {
  std::string clean;
  clean.reserve(std::min(text.size(), max_bytes));
  while (!text.empty()) {
    size_t length = SequenceLength(text);
    absl::string_view piece = text.substr(0, length);
    const uint8_t first = static_cast<uint8_t>(text[0]);
    if (length == 0 || first == 0x7F || (first < 0x20 && first != '\t' && first != '\n')) {
      piece = kReplacement;
      length = 1;
    }
    if (clean.size() + piece.size() > max_bytes) break;
    clean.append(piece.data(), piece.size());
    text.remove_prefix(length);
  }
  return clean;
}

hearth::v1::FunctionError SanitizeError(const agent::v1::FunctionError& error) {
  hearth::v1::FunctionError clean;
  clean.set_type(SanitizeText(error.type(), kMaxErrorTypeBytes));
  clean.set_message(SanitizeText(error.message(), kMaxErrorMessageBytes));
  for (int i = 0; i < std::min(error.stack_trace_size(), kMaxStackFrames); ++i) {
    clean.add_stack_trace(SanitizeText(error.stack_trace(i), kMaxStackFrameBytes));
  }
  clean.set_exit_code(error.exit_code());
  clean.set_signal(error.signal());
  return clean;
}

hearth::v1::GuestUsage SanitizeUsage(const agent::v1::ProcessUsage& usage) {
  hearth::v1::GuestUsage clean;
  clean.set_wall_ns(Clamp(usage.wall_ns()));
  clean.set_user_cpu_ns(Clamp(usage.user_cpu_ns()));
  clean.set_system_cpu_ns(Clamp(usage.system_cpu_ns()));
  clean.set_peak_memory_bytes(Clamp(usage.peak_memory_bytes()));
  clean.set_read_bytes(Clamp(usage.read_bytes()));
  clean.set_written_bytes(Clamp(usage.written_bytes()));
  return clean;
}

std::string SanitizeContentType(absl::string_view content_type) {
  const bool printable = std::all_of(content_type.begin(), content_type.end(),
                                     [](char c) { return c >= 0x20 && c < 0x7F; });
  if (content_type.empty() || content_type.size() > kMaxContentTypeBytes || !printable ||
      content_type.find('/') == absl::string_view::npos) {
    return "application/octet-stream";
  }
  return std::string(content_type);
}

}  // namespace hearth::control
