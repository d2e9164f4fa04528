// SPDX-License-Identifier: Apache-2.0
#include "wire/text.h"

#include <algorithm>
#include <cstdint>

#include "vmm/base/utf8.h"

namespace hearth::wire {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::string SanitizeText(absl::string_view text, size_t max_bytes) {
  std::string clean;
  clean.reserve(std::min(text.size(), max_bytes));
  while (!text.empty()) {
    size_t length = Utf8SequenceBytes(text);
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
