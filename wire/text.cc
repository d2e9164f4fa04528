// SPDX-License-Identifier: Apache-2.0
#include "wire/text.h"

#include <algorithm>
#include <cstdint>

namespace hearth::wire {
namespace {

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

}  // namespace hearth::wire
